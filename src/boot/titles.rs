//! What the processes of a server are called in lists of processes (`auto-procname` and its like).

use super::later;
use crate::config::{ProcessNames, Settings};
use crate::sys::process;

/// What a process is to others.
pub(super) enum Role {
    Master,
    /// It writes the log.
    Relay,
    Zygote,
    Worker(u32),
}

pub(super) fn entitle_relay(settings: &Settings) {
    rename(title(&settings.process_names, &Role::Relay));
    later::in_relay(settings);
}

/// The title of a process, if the configuration asks for one.
pub(super) fn title(names: &ProcessNames, role: &Role) -> Option<String> {
    let own = match role {
        Role::Master => names.master.clone(),
        _ => None,
    };
    let auto = || match role {
        Role::Master => "rsgi master".to_string(),
        Role::Relay => "rsgi logger".to_string(),
        Role::Zygote => "rsgi zygote".to_string(),
        Role::Worker(id) => format!("rsgi worker {id}"),
    };
    // Any of the options asks for titles, as in uWSGI.
    if *names == ProcessNames::default() {
        return None;
    }
    let name = own.or_else(|| names.all.clone()).unwrap_or_else(auto);
    Some(format!("{}{name}{}", names.prefix, names.append))
}

pub(super) fn rename(title: Option<String>) {
    if let Some(title) = title
        && let Err(error) = process::set_title(&title)
    {
        log::warn!("the process cannot be called {title:?}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_follow_the_most_special_option() {
        let none = ProcessNames::default();
        assert_eq!(title(&none, &Role::Master), None);
        let auto = ProcessNames { auto: true, prefix: "shop ".into(), append: "!".into(), ..none.clone() };
        assert_eq!(title(&auto, &Role::Worker(3)).as_deref(), Some("shop rsgi worker 3!"));
        let named = ProcessNames { all: Some("all".into()), master: Some("boss".into()), ..none };
        assert_eq!(title(&named, &Role::Master).as_deref(), Some("boss"));
        assert_eq!(title(&named, &Role::Zygote).as_deref(), Some("all"));
        let prefixed = ProcessNames { prefix: "shop ".into(), ..ProcessNames::default() };
        assert_eq!(title(&prefixed, &Role::Zygote).as_deref(), Some("shop rsgi zygote"));
    }
}
