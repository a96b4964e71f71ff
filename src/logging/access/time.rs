//! The time of a request in the forms that a line can have.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

use super::{Record, number, padded};

impl Record<'_> {
    /// Begin of the request in the zone of the log.
    pub(super) fn local_time(&self) -> (DateTime, Offset) {
        let time = Timestamp::from_second((self.started / 1_000_000) as i64).unwrap_or_default();
        let offset = self.zone.to_offset(time);
        (offset.to_datetime(time), offset)
    }

    /// `Sun Nov 22 12:13:33 2026`
    pub(super) fn ctime(&self, out: &mut Vec<u8>) {
        const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
        let (time, _) = self.local_time();
        out.extend_from_slice(DAYS[time.weekday().to_monday_zero_offset() as usize].as_bytes());
        out.push(b' ');
        out.extend_from_slice(month(time));
        out.push(b' ');
        if time.day() < 10 {
            out.push(b' ');
        }
        number(time.day(), out);
        out.push(b' ');
        clock(time, out);
        out.push(b' ');
        number(time.year(), out);
    }

    /// In a format that was tried when the configuration was read.
    pub(super) fn date(&self, format: &str, out: &mut Vec<u8>) {
        let time = Timestamp::from_microsecond(self.started as i64).unwrap_or_default().to_zoned(self.zone.clone());
        out.extend_from_slice(jiff::fmt::strtime::format(format, &time).unwrap_or_default().as_bytes());
    }

    /// `22/Nov/2026:12:31:57 +0000`
    pub(super) fn log_time(&self, out: &mut Vec<u8>) {
        let (time, offset) = self.local_time();
        padded(time.day() as u64, 2, out);
        out.push(b'/');
        out.extend_from_slice(month(time));
        out.push(b'/');
        number(time.year(), out);
        out.push(b':');
        clock(time, out);
        out.push(b' ');
        let seconds = offset.seconds();
        out.push(if seconds < 0 { b'-' } else { b'+' });
        let minutes = u64::from(seconds.unsigned_abs()) / 60;
        padded(minutes / 60, 2, out);
        padded(minutes % 60, 2, out);
    }
}

/// The month's English abbreviation.
fn month(time: DateTime) -> &'static [u8] {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    MONTHS[time.month() as usize - 1].as_bytes()
}

/// `12:13:33`
fn clock(time: DateTime, out: &mut Vec<u8>) {
    padded(time.hour() as u64, 2, out);
    out.push(b':');
    padded(time.minute() as u64, 2, out);
    out.push(b':');
    padded(time.second() as u64, 2, out);
}

/// `+00:00`
pub(super) fn offset_with_colon(offset: Offset, out: &mut Vec<u8>) {
    let seconds = offset.seconds();
    out.push(if seconds < 0 { b'-' } else { b'+' });
    let minutes = u64::from(seconds.unsigned_abs()) / 60;
    padded(minutes / 60, 2, out);
    out.push(b':');
    padded(minutes % 60, 2, out);
}
