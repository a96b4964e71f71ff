//! Stub.
use crate::gateway::Exchange;
use std::sync::Arc;
pub struct Apps;
#[derive(Clone)]
pub struct Options {
    pub threads: u32,
    pub processes: u32,
    pub manage_script_name: bool,
}
pub struct AppThread<'py>(std::marker::PhantomData<&'py ()>);
impl AppThread<'_> {
    pub fn serve(&mut self, e: Box<dyn Exchange>) -> Box<dyn Exchange> {
        e
    }
    pub fn detached<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        f()
    }
}
pub fn with_app_thread<R>(_a: &Arc<Apps>, _o: &Options, _c: u32, f: impl FnOnce(&mut AppThread<'_>) -> R) -> R {
    f(&mut AppThread(std::marker::PhantomData))
}
