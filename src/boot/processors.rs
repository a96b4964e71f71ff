//! Which processors a worker runs on (`cpu-affinity`), and whether it has to share them with other workers.

use crate::config::Settings;
use crate::sys::{self, scheduler};

/// Binds this process, which becomes worker `id`, to its processors if the configuration says so. True: it shares them with more
/// workers than can run there at once. Counted are all workers that there may be: how many run now changes (`cheaper`).
pub(super) fn take(settings: &Settings, id: u32) -> bool {
    let count = settings.privileges.cpu_affinity as usize;
    let (number, workers) = (id as usize - 1, settings.processes as usize);
    match bind(number, count) {
        Ok((all, own)) => {
            if count > 0 {
                log::debug!("worker {id} is bound to processors {own:?}");
            }
            shares(&own, workers, |other| share(&all, other, count), number)
        }
        Err(error) => {
            if count > 0 {
                log::warn!("{}: {}", settings.place("cpu-affinity"), sys::describe(&error));
            }
            // Those of the others do not become known either.
            let all = scheduler::processors().unwrap_or(vec![0]);
            shares(&all, workers, |_| all.clone(), number)
        }
    }
}

/// The processors that this process could run on before, and those that it can run on now.
fn bind(number: usize, count: usize) -> std::io::Result<(Vec<usize>, Vec<usize>)> {
    let all = scheduler::processors()?;
    if count > 0 {
        scheduler::bind_to_processors(&share(&all, number, count))?;
    }
    Ok((all, scheduler::processors()?))
}

/// `count` processors of `all` (0: all of them): the first ones for worker number 0, the next ones for number 1, and so on in a
/// circle.
fn share(all: &[usize], number: usize, count: usize) -> Vec<usize> {
    if count == 0 {
        return all.to_vec();
    }
    let first = number * count;
    let mut chosen: Vec<usize> = (first..first + count.min(all.len())).map(|at| all[at % all.len()]).collect();
    chosen.sort_unstable();
    chosen
}

/// Whether on the processors that worker `number` of `workers` has (`own`) more workers would run than there are processors. Each of
/// the others is there for the part of its own processors (`of`) that it has in common with this one.
fn shares(own: &[usize], workers: usize, of: impl Fn(usize) -> Vec<usize>, number: usize) -> bool {
    let others = (0..workers).filter(|other| *other != number).map(of);
    let parts = others.map(|other| {
        let common = other.iter().filter(|processor| own.contains(processor)).count();
        common as f64 / other.len().max(1) as f64
    });
    // Parts like thirds are not exact.
    1.0 + parts.sum::<f64>() > own.len() as f64 + 1e-6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_dealt_in_a_circle() {
        let all = [0, 1, 4, 5, 6];
        assert_eq!(share(&all, 0, 2), [0, 1]);
        assert_eq!(share(&all, 1, 2), [4, 5]);
        assert_eq!(share(&all, 2, 2), [0, 6]);
        assert_eq!(share(&all, 3, 100), all);
        assert_eq!(share(&all, 3, 0), all);
    }

    /// Which workers share, of so many on so many processors with such a `cpu-affinity`.
    fn who_shares(workers: usize, processors: usize, count: usize) -> Vec<bool> {
        let all: Vec<usize> = (0..processors).collect();
        (0..workers)
            .map(|number| shares(&share(&all, number, count), workers, |other| share(&all, other, count), number))
            .collect()
    }

    #[test]
    fn workers_that_are_not_bound_share_when_there_are_more_of_them_than_processors() {
        for (workers, processors, all_share) in
            [(1, 1, false), (2, 1, true), (2, 2, false), (3, 2, true), (8, 64, false)]
        {
            assert_eq!(who_shares(workers, processors, 0), vec![all_share; workers], "{workers} on {processors}");
        }
    }

    #[test]
    fn workers_that_are_bound_share_when_they_are_bound_to_the_same_processors() {
        // Each its own, even all of them.
        assert_eq!(who_shares(2, 2, 1), [false, false]);
        assert_eq!(who_shares(2, 4, 2), [false, false]);
        // All on one.
        assert_eq!(who_shares(2, 1, 1), [true, true]);
        assert_eq!(who_shares(2, 1, 5), [true, true]);
        // The circle begins anew: only who has a neighbour there shares.
        assert_eq!(who_shares(3, 2, 1), [true, false, true]);
        // Two on two are not too many, three are.
        assert_eq!(who_shares(3, 4, 2), [false, false, false]);
        assert_eq!(who_shares(5, 4, 2), [true, false, true, false, true]);
        // They overlap, and there is one for each.
        assert_eq!(who_shares(3, 3, 2), [false, false, false]);
        assert_eq!(who_shares(4, 3, 2), [true, true, true, true]);
        assert_eq!(who_shares(7, 7, 3), [false; 7]);
    }

    #[test]
    fn a_worker_whose_processors_others_do_not_have_shares_nothing() {
        // The two others have one processor, and this one has another.
        assert!(!shares(&[1], 3, |_| vec![0], 2));
        assert!(shares(&[0], 3, |_| vec![0], 2));
    }
}
