//! How the kernel shares processors between processes.
#![allow(unsafe_code)]

use std::io;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The numbers of the processors that this thread may run on.
///
/// # Errors
/// The system's.
pub fn processors() -> io::Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect())
}

/// Binds this thread, and what it starts, to these processors.
///
/// # Errors
/// The system's.
pub fn bind_to_processors(chosen: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    chosen.iter().try_for_each(|cpu| set.set(*cpu))?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Asks for time slices of this length (Linux 6.12 and later; others take no notice): the share of the processor stays, it
/// comes in smaller pieces. For the calling thread and those that it starts from now on. True: it was asked for.
///
/// # Errors
/// The system's.
pub fn ask_for_time_slice(length: Duration) -> io::Result<bool> {
    // Services are often forbidden what changes priorities, and killed for trying.
    if has_filter() {
        return Ok(false);
    }
    let size = size_of::<libc::sched_attr>() as libc::c_uint;
    // SAFETY: an all-zero sched_attr is a valid value of this plain C struct of numbers.
    let mut now: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is the calling thread; `now` is valid for writes of `size` bytes.
    if unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut now, size, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Somebody has chosen another way to be scheduled.
    if now.sched_policy != libc::SCHED_OTHER as u32 {
        return Ok(false);
    }
    // What was not asked for is as it was: the niceness, too.
    let wanted = libc::sched_attr { size, sched_runtime: length.as_nanos() as u64, ..now };
    // SAFETY: `wanted` is a valid sched_attr of the size that it tells, which is only read.
    if unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(true)
}

/// Whether a filter decides which system calls this process may make.
fn has_filter() -> bool {
    // SAFETY: PR_GET_SECCOMP takes no further argument and changes nothing.
    unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn niceness_and_slice() -> (i32, u64) {
        // SAFETY: as above.
        let mut now: libc::sched_attr = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let outcome = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut now, size_of_val(&now), 0) };
        assert_eq!(outcome, 0);
        (now.sched_nice, now.sched_runtime)
    }

    #[test]
    fn short_time_slices_are_asked_for_and_nothing_else_changes() {
        let look = || {
            let before = niceness_and_slice();
            let asked = ask_for_time_slice(Duration::from_micros(500)).unwrap();
            (before, asked, niceness_and_slice())
        };
        // In a thread of its own, which ends with it.
        let (before, asked, after) = std::thread::spawn(look).join().unwrap();
        assert_eq!(before.0, after.0);
        // Older kernels say 0 and keep to what they do.
        assert!(!asked || after.1 == 500_000 || after.1 == before.1, "{before:?} {after:?}");
    }

    #[test]
    fn a_thread_is_bound_to_one_of_its_processors() {
        let bind = || {
            let last = *processors().unwrap().last().unwrap();
            bind_to_processors(&[last]).unwrap();
            (processors().unwrap(), last)
        };
        // In a thread of its own, which ends with it.
        let (bound, last) = std::thread::spawn(bind).join().unwrap();
        assert_eq!(bound, [last]);
    }
}
