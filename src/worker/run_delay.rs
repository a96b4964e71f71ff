//! How long a thread has waited for a processor, as the kernel counts it (`/proc/PID/schedstat`).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The file of one thread.
pub(super) struct RunDelay {
    file: File,
}

impl RunDelay {
    /// None: the kernel does not count it, or /proc is not there.
    pub(super) fn of_this_thread() -> Option<RunDelay> {
        let delay = RunDelay { file: File::open("/proc/thread-self/schedstat").ok()? };
        delay.read().map(|_| delay)
    }

    /// The time in its life that the thread could run and no processor was free.
    pub(super) fn read(&self) -> Option<Duration> {
        let mut text = [0; 64];
        let len = self.file.read_at(&mut text, 0).ok()?;
        parse(&text[..len])
    }
}

/// The second of three numbers: nanoseconds on a processor, nanoseconds in the queue, turns.
fn parse(text: &[u8]) -> Option<Duration> {
    let word = text.split(u8::is_ascii_whitespace).nth(1)?;
    std::str::from_utf8(word).ok()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_number_is_the_time_in_the_queue() {
        assert_eq!(parse(b"123 4567 8\n"), Some(Duration::from_nanos(4567)));
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"1"), None);
        assert_eq!(parse(b"1 x 2"), None);
    }
}
