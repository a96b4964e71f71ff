//! Processes: the one place that forks, waiting for children, titles.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid};

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The old process; the new one has this id.
    Parent(i32),
    /// The new process.
    Child,
}

/// Forks. The only call of its kind in the project. The caller sees to the fork rules: our own processes have
/// one thread, CPython's fork hooks run around it where there is an interpreter.
///
/// # Errors
/// The system's.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: with one thread the child is a full copy. Where an application started threads at import, the child runs
    // CPython's own hooks for that case first, as `os.fork` does.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Fork::Parent(child.as_raw())),
        ForkResult::Child => Ok(Fork::Child),
    }
}

/// Ends this process at once: no destructors, no handlers, no buffers. For a child that must not touch
/// what it shares with its parent.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: `_exit` may be called in any state.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Orphans below this process become its children instead of init's.
///
/// # Errors
/// The system's.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// This process.
pub fn own_id() -> i32 {
    Pid::this().as_raw()
}

/// The parent, as of now.
pub fn parent_id() -> i32 {
    Pid::parent().as_raw()
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It exited.
    Code(i32),
    /// A signal killed it; whether a core was dumped.
    Killed(i32, bool),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Code(code) => write!(f, "exited with code {code}"),
            End::Killed(signal, dumped) => {
                match Signal::try_from(*signal) {
                    Ok(name) => write!(f, "was killed by {name}")?,
                    Err(_) => write!(f, "was killed by signal {signal}")?,
                }
                if *dumped { f.write_str(" (core dumped)") } else { Ok(()) }
            }
        }
    }
}

/// Takes one child that has ended; none when none has.
pub fn reap_any() -> Option<(i32, End)> {
    reap(-1, libc::WNOHANG)
}

/// Waits until child `id` has ended.
pub fn reap_one(id: i32) -> Option<End> {
    reap(id, 0).map(|(_, end)| end)
}

/// By libc and not nix, which has no value for death by a real-time signal and would lose whose it was.
fn reap(which: i32, flags: i32) -> Option<(i32, End)> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a place to write to.
        let pid = unsafe { libc::waitpid(which, &mut status, flags) };
        if pid > 0 {
            return Some((pid, decode(status)));
        }
        if pid == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
}

/// Only ends are asked for: a stopped or continued child is not reported.
fn decode(status: i32) -> End {
    match libc::WIFSIGNALED(status) {
        true => End::Killed(libc::WTERMSIG(status), libc::WCOREDUMP(status)),
        false => End::Code(libc::WEXITSTATUS(status)),
    }
}

/// A signal by its number.
pub fn signal_by_number(number: i32) -> Option<Signal> {
    Signal::try_from(number).ok()
}

/// Sends a signal; false when there is no such process.
pub fn send_signal(id: i32, signal: Signal) -> bool {
    id > 0 && kill(Pid::from_raw(id), signal).is_ok()
}

/// Sends a signal to all processes of the group that process `id` leads.
/// False when there is no such group.
pub fn signal_group(id: i32, signal: Signal) -> bool {
    id > 1 && nix::sys::signal::killpg(Pid::from_raw(id), signal).is_ok()
}

/// Whether there is a process `id`.
pub fn lives(id: i32) -> bool {
    id > 0 && !matches!(kill(Pid::from_raw(id), None), Err(nix::Error::ESRCH))
}

/// The system kills this process when its parent, which must be `parent`, is gone. To be called after the last change of the
/// user: that clears it.
///
/// # Errors
/// The system's.
pub fn die_with_parent(parent: i32) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if parent_id() != parent {
        // It was faster.
        exit_now(1);
    }
    Ok(())
}

/// Takes [`die_with_parent`] back.
pub fn outlive_parent() {
    // Without a signal to send there is nothing that could be refused.
    let _ = nix::sys::prctl::set_pdeathsig(None);
}

/// The system ends this process after so long, whatever it does then.
pub fn end_in(seconds: u32) {
    if crate::sys::signal::set_default(&[Signal::SIGALRM]).is_ok() {
        let _ = nix::unistd::alarm::set(seconds.max(1));
    }
}

/// How a shell command is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spawn<'a> {
    /// The system kills it when this process is gone.
    pub attached: bool,
    /// It reads what this process would; else nothing.
    pub stdin: bool,
    /// User to become.
    pub uid: Option<u32>,
    /// Group to become.
    pub gid: Option<u32>,
    /// Where it runs.
    pub folder: Option<&'a std::path::Path>,
}

/// Starts a shell command in a session of its own.
///
/// # Errors
/// The system's.
pub fn spawn_shell(command: &str, how: Spawn<'_>) -> io::Result<i32> {
    use std::os::unix::process::CommandExt;
    let attached = how.attached;
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", command]);
    if !how.stdin {
        shell.stdin(std::process::Stdio::null());
    }
    how.uid.map(|uid| shell.uid(uid));
    how.gid.map(|gid| shell.gid(gid));
    how.folder.map(|folder| shell.current_dir(folder));
    let parent = own_id();
    let prepare = move || {
        // What the master reads one by one would never reach a program that is to end by it.
        super::signal::unblock_all()?;
        nix::unistd::setsid()?;
        if attached { die_with_parent(parent) } else { Ok(()) }
    };
    // SAFETY: system calls alone, which may be made between fork and exec.
    unsafe { shell.pre_exec(prepare) };
    shell.spawn().map(|child| child.id() as i32)
}

/// Runs a shell command to its end, with nothing to read.
///
/// # Errors
/// The system's.
pub fn run_shell(command: &str) -> io::Result<std::process::ExitStatus> {
    use std::os::unix::process::CommandExt;
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", command]).stdin(std::process::Stdio::null());
    // SAFETY: a system call alone, which may be made between fork and exec.
    unsafe { shell.pre_exec(super::signal::unblock_all) };
    shell.status()
}

/// Leaves the session and the terminal of whoever started this process.
///
/// # Errors
/// The system's.
pub fn leave_session() -> io::Result<()> {
    nix::unistd::setsid()?;
    Ok(())
}

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Address space.
    pub address_space: u64,
    /// Resident memory, pages shared with others included.
    pub resident: u64,
}

/// Memory of process `id`; none when it is gone.
pub fn memory_of(id: i32) -> Option<Memory> {
    parse_statm(&fs::read(format!("/proc/{id}/statm")).ok()?)
}

/// What the system says process `id` does (the state in `/proc/PID/stat`); none when it is gone.
pub fn state_of(id: i32) -> Option<&'static str> {
    let stat = fs::read(format!("/proc/{id}/stat")).ok()?;
    let at = stat.iter().rposition(|b| *b == b')')? + 2;
    Some(match stat.get(at)? {
        b'R' => "it runs",
        b'S' => "it sleeps",
        b'D' => "it waits for a device",
        b'T' | b't' => "it is stopped",
        _ => "it has ended",
    })
}

/// The memory of process `id` in bytes, where what it shares with others counts for each of them in part (proc(5)); none when it
/// is gone, or the system does not tell. The kernel walks all its pages for it.
pub fn share_of_memory(id: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
    parse_share(&text)
}

fn parse_share(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Lets whoever runs as the same user look at this process and its children, as if it had never been root. Without it the
/// system hides their memory from their own master.
///
/// # Errors
/// The system's.
pub fn be_visible() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(true)?)
}

/// The text of `/proc/PID/statm` (proc(5)): pages of address space and of resident memory come first.
pub fn parse_statm(text: &[u8]) -> Option<Memory> {
    let mut pages = std::str::from_utf8(text).ok()?.split_ascii_whitespace().map(|word| word.parse::<u64>().ok());
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten()? as u64;
    Some(Memory { address_space: pages.next()?? * size, resident: pages.next()?? * size })
}

/// Threads of this process.
pub fn thread_count() -> usize {
    fs::read_dir("/proc/self/task").map_or(1, |tasks| tasks.count())
}

/// Names of this process's threads but for the calling one.
pub fn other_thread_names() -> Vec<String> {
    let own = nix::unistd::gettid().to_string();
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let mut names: Vec<String> = tasks
        .flatten()
        .filter(|task| task.file_name() != OsStr::new(&own))
        .map(|task| fs::read_to_string(task.path().join("comm")).unwrap_or_default().trim().to_string())
        .collect();
    names.sort();
    names
}

/// Sets the file mode mask; without one, that which the process was started with.
pub fn set_umask(mask: Option<u32>) {
    static ORIGINAL: OnceLock<Mode> = OnceLock::new();
    if let Some(wanted) = mask.map(Mode::from_bits_truncate).or(ORIGINAL.get().copied()) {
        let before = nix::sys::stat::umask(wanted);
        ORIGINAL.get_or_init(|| before);
    }
}

/// The memory in which the kernel looks for a process's command line: its own and the environment after it.
struct TitleArea {
    start: usize,
    len: usize,
}

/// Calls this process `title` in `ps`. To be called while there is one thread; the environment is moved away at the first
/// call, as its place is needed.
///
/// # Errors
/// Where the place is cannot be told.
pub fn set_title(title: &str) -> io::Result<()> {
    static AREA: OnceLock<Option<TitleArea>> = OnceLock::new();
    let area = AREA
        .get_or_init(|| {
            let area = find_title_area()?;
            move_environment()?;
            Some(area)
        })
        .as_ref()
        .ok_or_else(|| io::Error::other("/proc/self/stat does not say where the arguments are"))?;
    let mut bytes = title.as_bytes();
    bytes = &bytes[..bytes.len().min(area.len - 1)];
    // SAFETY: the kernel put argument and environment strings into [start, start + len), on the stack of the first thread,
    // mapped and writable for the process's life. Nothing reads them any more: Rust and CPython copied the arguments, and the
    // environment was moved.
    unsafe {
        let place = area.start as *mut u8;
        std::ptr::write_bytes(place, 0, area.len);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
    }
    Ok(())
}

fn find_title_area() -> Option<TitleArea> {
    let stat = fs::read("/proc/self/stat").ok()?;
    // The second field, the name, may hold anything, spaces and brackets too.
    let rest = &stat[stat.iter().rposition(|b| *b == b')')? + 2..];
    let text = std::str::from_utf8(rest).ok()?;
    // proc(5): arg_start, arg_end, env_start, env_end are fields 48 to 51, counted from 1; `rest` begins with field 3.
    let fields: Vec<usize> = text.split_whitespace().skip(45).take(4).map_while(|field| field.parse().ok()).collect();
    let &[arg_start, arg_end, env_start, env_end] = fields.as_slice() else { return None };
    if arg_start == 0 || arg_end <= arg_start {
        return None;
    }
    let end = if env_start == arg_end && env_end > env_start { env_end } else { arg_end };
    Some(TitleArea { start: arg_start, len: end - arg_start })
}

/// Copies the environment, strings and table, to memory that is never freed.
fn move_environment() -> Option<()> {
    unsafe extern "C" {
        static mut environ: *mut *mut libc::c_char;
    }
    // SAFETY: one thread, so nobody changes the environment meanwhile; `environ` is a table of C strings that ends with
    // null, and glibc copies it itself before it changes a table that is not its own.
    unsafe {
        let table = environ;
        if table.is_null() {
            return Some(());
        }
        let mut copy = Vec::new();
        let mut entry = table;
        while !(*entry).is_null() {
            let string = libc::strdup(*entry);
            if string.is_null() {
                return None;
            }
            copy.push(string);
            entry = entry.add(1);
        }
        copy.push(std::ptr::null_mut());
        environ = Vec::leak(copy).as_mut_ptr();
    }
    Some(())
}

/// Sets a variable of the environment. To be called while there is one thread, before Python starts.
pub fn set_variable(name: &str, value: &str) {
    // SAFETY: one thread, so nobody reads the environment meanwhile.
    unsafe { std::env::set_var(OsStr::from_bytes(name.as_bytes()), OsStr::from_bytes(value.as_bytes())) }
}

/// Removes a variable of the environment, under the same rule.
pub fn remove_variable(name: &str) {
    // SAFETY: as above.
    unsafe { std::env::remove_var(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_words() {
        assert_eq!(End::Code(3).to_string(), "exited with code 3");
        assert_eq!(End::Killed(11, false).to_string(), "was killed by SIGSEGV");
        assert_eq!(End::Killed(6, true).to_string(), "was killed by SIGABRT (core dumped)");
        assert_eq!(End::Killed(40, false).to_string(), "was killed by signal 40");
    }

    #[test]
    fn the_place_of_the_title_is_found() {
        let area = find_title_area().unwrap();
        assert!(area.start > 0 && area.len > 0);
    }

    #[test]
    fn memory_is_told_of_processes_that_live() {
        let own = memory_of(own_id()).unwrap();
        assert!(own.resident > 0 && own.address_space >= own.resident, "{own:?}");
        assert_eq!(memory_of(i32::MAX), None);
        assert_eq!(parse_statm(b"12"), None);
        let share = share_of_memory(own_id()).unwrap();
        assert!(share > 0 && share <= own.resident * 2, "{share}");
        assert_eq!(share_of_memory(i32::MAX), None);
        assert_eq!(parse_share("5-7 ---p [rollup]\nRss:   9 kB\nPss:    3 kB\nPss_Anon: 1 kB\n"), Some(3072));
    }

    #[test]
    fn threads_are_counted() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let (started, ready) = std::sync::mpsc::channel();
        let body = move || {
            started.send(()).unwrap();
            let _ = wait.recv();
        };
        let thread = std::thread::Builder::new().name("extra".into()).spawn(body).unwrap();
        ready.recv().unwrap();
        assert!(thread_count() >= 2);
        assert!(other_thread_names().iter().any(|name| name == "extra"));
        drop(stop);
        let _ = thread.join();
    }
}
