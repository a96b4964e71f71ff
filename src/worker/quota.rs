//! What a worker may use before it asks the master to be replaced: requests and memory, looked at after each request.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::control::Limit;
use crate::sys::process::{Memory, parse_statm};

/// Limits; 0 is without limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Requests.
    pub requests: u64,
    /// Resident memory in bytes.
    pub resident: u64,
    /// Address space in bytes.
    pub address_space: u64,
}

impl Quota {
    fn passed(&self, memory: Memory) -> Option<Limit> {
        let mib = |bytes: u64| u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        if self.resident > 0 && memory.resident >= self.resident {
            return Some(Limit::Resident(mib(memory.resident)));
        }
        (self.address_space > 0 && memory.address_space >= self.address_space)
            .then(|| Limit::AddressSpace(mib(memory.address_space)))
    }
}

/// What was used of a quota.
pub(super) struct Meter {
    quota: Quota,
    requests: AtomicU64,
    told: AtomicBool,
    /// Kept open: reading it again is one system call.
    statm: Option<File>,
}

impl Meter {
    pub(super) fn new(quota: &Quota) -> Meter {
        let looks = quota.resident > 0 || quota.address_space > 0;
        let statm = looks.then(|| File::open("/proc/self/statm")).and_then(|opened| {
            opened.inspect_err(|error| log::error!("the memory of the worker cannot be told: {error}")).ok()
        });
        Meter { quota: quota.clone(), requests: AtomicU64::new(0), told: AtomicBool::new(false), statm }
    }

    /// A request is over: the limit that was reached with it, once.
    pub(super) fn after_request(&self) -> Option<Limit> {
        if self.quota == Quota::default() || self.told.load(Ordering::Relaxed) {
            return None;
        }
        let served = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let reached = match self.quota.requests {
            limit if limit > 0 && served >= limit => Some(Limit::Requests(u32::try_from(served).unwrap_or(u32::MAX))),
            _ => self.memory().and_then(|memory| self.quota.passed(memory)),
        };
        reached.filter(|_| !self.told.swap(true, Ordering::Relaxed))
    }

    fn memory(&self) -> Option<Memory> {
        let mut bytes = [0; 128];
        let len = self.statm.as_ref()?.read_at(&mut bytes, 0).ok()?;
        parse_statm(&bytes[..len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_request_of_the_quota_is_told_once() {
        let meter = Meter::new(&Quota { requests: 3, ..Quota::default() });
        let told: Vec<_> = (0..5).map(|_| meter.after_request()).collect();
        assert_eq!(told, [None, None, Some(Limit::Requests(3)), None, None]);
    }

    #[test]
    fn memory_is_told_in_mib_when_it_reaches_the_limit() {
        let quota = Quota { resident: 5 << 20, address_space: 9 << 20, ..Quota::default() };
        let memory =
            |resident: u64, address_space: u64| Memory { resident: resident << 20, address_space: address_space << 20 };
        assert_eq!(quota.passed(memory(4, 8)), None);
        assert_eq!(quota.passed(memory(5, 8)), Some(Limit::Resident(5)));
        assert_eq!(quota.passed(memory(4, 9)), Some(Limit::AddressSpace(9)));
        let meter = Meter::new(&Quota { resident: 1, ..Quota::default() });
        assert!(matches!(meter.after_request(), Some(Limit::Resident(_))));
    }

    #[test]
    fn without_limits_nothing_is_told() {
        let meter = Meter::new(&Quota::default());
        assert!((0..100).all(|_| meter.after_request().is_none()));
    }
}
