//! The clocks that all processes of the server share.
#![allow(unsafe_code)]

/// Milliseconds since the epoch, as the system has it now.
pub fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}

/// Milliseconds of CLOCK_MONOTONIC: the same in every process, never set back.
pub fn monotonic_ms() -> u64 {
    monotonic_micros() / 1000
}

/// Microseconds of the same clock.
pub fn monotonic_micros() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to; CLOCK_MONOTONIC always exists on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}
