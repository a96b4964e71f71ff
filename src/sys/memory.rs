//! Memory shared between a process and all that it forks afterwards.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// Rows of `N` atomic words, zero at first, that every process forked later sees and changes alike.
/// Each row starts at a multiple of `N * 8` bytes from a page boundary.
pub struct SharedRows<const N: usize> {
    base: NonNull<[AtomicU64; N]>,
    rows: usize,
    /// The memory's own name, for a program that takes over in this process.
    fd: OwnedFd,
}

// SAFETY: the memory is reached through shared references to atomics only, and unmapped by `Drop` alone.
unsafe impl<const N: usize> Send for SharedRows<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Sync for SharedRows<N> {}

impl<const N: usize> SharedRows<N> {
    /// Maps `rows` rows. `name` shows in `/proc/PID/maps`.
    ///
    /// # Errors
    /// The system's, when there is not enough memory or address space.
    pub fn create(name: &CStr, rows: usize) -> io::Result<SharedRows<N>> {
        let len = Self::len(rows)?;
        let fd = file(name)?;
        // SAFETY: plain call on an own descriptor.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) } < 0 {
            return Err(io::Error::last_os_error());
        }
        SharedRows::map(fd, rows, len)
    }

    /// Maps the rows that another program made ([`SharedRows::create`]) and gave the descriptor of.
    ///
    /// # Errors
    /// The system's; when the memory is of another size.
    pub fn adopt(fd: OwnedFd, rows: usize) -> io::Result<SharedRows<N>> {
        let len = Self::len(rows)?;
        match nix::sys::stat::fstat(&fd)?.st_size {
            found if found == len as i64 => SharedRows::map(fd, rows, len),
            found => Err(io::Error::other(format!("shared memory of {found} bytes, and not {len}"))),
        }
    }

    fn map(fd: OwnedFd, rows: usize, len: usize) -> io::Result<SharedRows<N>> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, of the length the file has.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave address 0"))?;
        Ok(SharedRows { base, rows, fd })
    }

    fn len(rows: usize) -> io::Result<usize> {
        let too_big = || io::Error::new(io::ErrorKind::OutOfMemory, "shared memory of that size");
        let len = rows.max(1).checked_mul(size_of::<[AtomicU64; N]>()).ok_or_else(too_big)?;
        if len > isize::MAX as usize / 2 { Err(too_big()) } else { Ok(len) }
    }

    /// The memory, for [`SharedRows::adopt`].
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// All rows.
    pub fn rows(&self) -> &[[AtomicU64; N]] {
        // SAFETY: the mapping has room for `rows` rows, is aligned to a page, lives as long as `self`, and any
        // bit pattern is a valid atomic integer.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.rows) }
    }
}

impl<const N: usize> Drop for SharedRows<N> {
    fn drop(&mut self) {
        if let Ok(len) = Self::len(self.rows) {
            // SAFETY: the very range that `create` mapped; no reference into it outlives `self`.
            unsafe { libc::munmap(self.base.as_ptr().cast(), len) };
        }
    }
}

/// A file in memory, close-on-exec.
///
/// # Errors
/// The system's.
pub fn file(name: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: `name` is a valid C string; the result is checked.
    let raw = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn rows_are_zero_and_writable() {
        let rows = SharedRows::<8>::create(c"test", 3).unwrap();
        assert_eq!(rows.rows().len(), 3);
        assert!(rows.rows().iter().flatten().all(|word| word.load(Ordering::Relaxed) == 0));
        rows.rows()[2][7].store(5, Ordering::Relaxed);
        assert_eq!(rows.rows()[2][7].load(Ordering::Relaxed), 5);
    }

    #[test]
    fn who_adopts_sees_the_same_memory() {
        let rows = SharedRows::<8>::create(c"test", 3).unwrap();
        let twin = SharedRows::<8>::adopt(rows.descriptor().try_clone_to_owned().unwrap(), 3).unwrap();
        twin.rows()[1][2].store(7, Ordering::Relaxed);
        assert_eq!(rows.rows()[1][2].load(Ordering::Relaxed), 7);
        assert!(SharedRows::<8>::adopt(rows.descriptor().try_clone_to_owned().unwrap(), 4).is_err());
    }

    #[test]
    fn an_absurd_size_is_an_error() {
        assert!(SharedRows::<8>::create(c"test", usize::MAX / 32).is_err());
    }
}
