//! What a zygote and its workers run, as the configuration says: which application, with which interpreter and which hooks,
//! and the options and limits of a worker.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::titles::{Role, rename, title};
use super::{SYSTEMD_VARIABLES, later, processors};
use crate::config::hooks::Phase;
use crate::config::{self, Recycle, Settings};
use crate::logging::access::Access;
use crate::master::{self, Task};
use crate::protocol::http::head::Limits;
use crate::sys::{process, user};
use crate::worker::Quota;
use crate::zygote::{self, Zygote};
use crate::{hooks, interpreter, logging, worker, wsgi};

/// The life of a zygote and, in the processes it forks, of a worker.
pub(super) fn run_zygote(task: Task, start_dir: &Path) -> u8 {
    let Task { generation, control, master, settings, listeners, mailboxes, scoreboard } = task;
    // The master may be elsewhere: it tries the configuration of another generation just now.
    if let Err(error) = master::enter(&settings, start_dir) {
        log::warn!("{error}");
    }
    process::set_umask(settings.umask);
    logging::set_style(master::style(&settings));
    rename(title(&settings.process_names, &Role::Zygote));
    for (name, value) in &settings.env {
        process::set_variable(name, value);
    }
    let before = Arc::clone(&settings);
    let zygote = Zygote {
        before_import: Box::new(move || hooks::run(&before.hooks, Phase::PreApp)),
        after_import: later::after_import(&settings, master),
        generation,
        control,
        master,
        scoreboard: Arc::clone(&scoreboard),
        interpreter: interpreter::Spec { home: home(&settings) },
        apps: load_spec(&settings),
        lazy: settings.lazy_apps,
        watched: settings
            .triggers
            .auto_reload
            .map(|every| zygote::Watched { every, ignored: settings.triggers.auto_reload_ignore.clone() }),
        import_timeout: import_timeout(&settings, generation),
        use_log: logging::use_file,
        at_exit: !settings.skip_atexit,
        environment: environment_changes(&settings),
    };
    zygote::run(zygote, move |birth, load| {
        rename(title(&settings.process_names, &Role::Worker(birth.id)));
        let shares_processors = processors::take(&settings, birth.id);
        let context = worker::Context {
            id: birth.id,
            generation,
            control: birth.control,
            listeners,
            mailboxes,
            scoreboard,
            options: worker::Options { shares_processors, ..worker_options(&settings) },
            wsgi: wsgi::Options {
                threads: settings.threads,
                processes: settings.processes,
                manage_script_name: settings.manage_script_name,
                fastcgi_stderr: settings.fastcgi_stderr,
                file_wrapper: settings.file_wrapper,
                run_once: false,
            },
        };
        let (id, first) = (context.id, birth.first);
        let load = move || {
            later::in_worker(&settings, master)?;
            hooks::run(&settings.hooks, Phase::PostFork)?;
            let apps = load()?;
            let phases = [
                (Phase::Accepting, true),
                (Phase::AcceptingOnce, first),
                (Phase::Accepting1, id == 1),
                (Phase::Accepting1Once, id == 1 && first),
            ];
            phases.into_iter().filter(|(_, due)| *due).try_for_each(|(phase, _)| hooks::run(&settings.hooks, phase))?;
            Ok(apps)
        };
        worker::run(context, load)
    })
}

/// At the first start nothing waits for the end of an import.
pub(super) fn import_timeout(settings: &Settings, generation: u32) -> Option<Duration> {
    let timeout = settings.recycle.import_timeout;
    (generation > 1 && !timeout.is_zero()).then_some(timeout)
}

/// The configured home, else the virtual environment that the shell has activated.
pub(super) fn home(settings: &Settings) -> Option<(PathBuf, String)> {
    let active = || {
        let path = std::env::var_os("VIRTUAL_ENV").filter(|path| !path.is_empty())?;
        // Set by the installed command's own environment, or for another Python: only the binary looks for one.
        (!interpreter_runs()).then(|| (PathBuf::from(path), "VIRTUAL_ENV".to_string()))
    };
    settings.home.clone().or_else(active)
}

fn interpreter_runs() -> bool {
    INSIDE_PYTHON.get().is_some()
}

/// Set by the command that pip installs.
pub(crate) static INSIDE_PYTHON: OnceLock<()> = OnceLock::new();

/// For an interpreter that read the environment before: what was set and removed since.
pub(super) fn environment_changes(settings: &Settings) -> Vec<(String, Option<String>)> {
    let removed = SYSTEMD_VARIABLES.iter().map(|name| (name.to_string(), None));
    let set = settings.env.iter().map(|(name, value)| (name.clone(), Some(value.clone())));
    removed.chain(set).collect()
}

pub(super) fn load_spec(settings: &Settings) -> wsgi::LoadSpec {
    let mounts = settings.mounts.iter();
    wsgi::LoadSpec {
        module: settings.module.clone(),
        wsgi_file: settings.wsgi_file.clone(),
        callable: settings.callable.clone(),
        mounts: mounts
            .map(|mount| wsgi::Mount {
                path: mount.path.clone(),
                what: mount.what.clone(),
                origin: mount.origin.clone(),
            })
            .collect(),
        pythonpath: settings.pythonpath.clone(),
        need_app: settings.need_app,
    }
}

fn worker_options(settings: &Settings) -> worker::Options {
    // The line has its default share of a head that is larger than the default.
    let usual = Limits::default();
    let max_line = usual.max_line.max(settings.buffer_size / (usual.max_head / usual.max_line));
    worker::Options {
        threads: settings.threads,
        processes: settings.processes,
        shares_processors: false,
        limits: Limits { max_head: settings.buffer_size, max_line },
        limit_post: settings.limit_post,
        post_buffering: settings.post_buffering,
        response_buffer: settings.response_buffer,
        timeouts: settings.timeouts.clone(),
        quota: quota(&settings.recycle),
        mercy: settings.recycle.mercy,
        harakiri: worker::HarakiriLimits {
            limit: settings.harakiri.limit,
            grace: settings.harakiri.grace,
            verbose: settings.harakiri.verbose,
            queue_threshold: settings.harakiri.queue_threshold,
        },
        measures_busyness: settings.cheaper.algorithm == config::Algorithm::Busyness,
        keeps_time: settings.reports.any(),
        tells_stacks: settings.reports.control.is_some(),
        trusted: (!settings.trusted_proxies.is_empty()).then(|| settings.trusted_proxies.clone()),
        host_name: user::host_name(),
        access: Access::new(settings.log_requests, settings.log_format.as_deref(), &settings.logs).map(Arc::new),
        sendfile: settings.sendfile,
    }
}

/// The limits of this very worker: by chance different from those of the others, so that not all are replaced at once.
fn quota(recycle: &Recycle) -> Quota {
    // The keys may have been made before the fork, for all workers: the process id makes the difference.
    let chance = RandomState::new().hash_one(process::own_id());
    Quota {
        requests: match recycle.max_requests {
            0 => 0,
            least => least + chance % (recycle.max_requests_delta + 1),
        },
        resident: recycle.reload_on.resident,
        address_space: recycle.reload_on.address_space,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_quota_is_between_the_limit_and_the_limit_with_its_delta() {
        let recycle = Recycle { max_requests: 100, max_requests_delta: 5, ..Recycle::default() };
        let found: HashSet<u64> = (0..1000).map(|_| quota(&recycle).requests).collect();
        assert!(found.iter().all(|requests| (100..=105).contains(requests)), "{found:?}");
        assert!(found.len() > 1);
        assert_eq!(quota(&Recycle { max_requests_delta: 5, ..Recycle::default() }).requests, 0);
    }
}
