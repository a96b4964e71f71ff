//! Requests that stay inside the application until the test releases them: the pages /wait and /spin of the applications.

use std::path::PathBuf;

use super::http::{Client, Response, get};
use super::server::Server;
use super::wait_until;

/// A request that is inside the application until [`Held::release`].
pub struct Held {
    client: Client,
    go: PathBuf,
    /// The worker that serves it.
    pub pid: i32,
}

impl Held {
    /// Asks for /wait/NAME on a connection of its own.
    #[track_caller]
    pub fn begin(server: &Server, name: &str) -> Held {
        Held::begin_on(server, server.connect(), "wait", name)
    }

    /// Asks for /PAGE/NAME on this connection.
    #[track_caller]
    pub fn begin_on(server: &Server, mut client: Client, page: &str, name: &str) -> Held {
        client.send(get(&format!("/{page}/{name}")));
        let file = server.path(&format!("{name}.in"));
        let mut pid = None;
        wait_until("the request is inside the application", || {
            pid = std::fs::read_to_string(&file).ok().and_then(|text| text.parse().ok());
            pid.is_some()
        });
        Held { client, go: server.path(&format!("{name}.go")), pid: pid.expect("a pid") }
    }

    /// Reads its response without letting it go.
    #[track_caller]
    pub fn response(mut self) -> Response {
        self.client.response()
    }

    /// Lets it go, and reads its response.
    #[track_caller]
    pub fn release(mut self) -> Response {
        std::fs::write(&self.go, "").expect("the file");
        self.client.response()
    }
}
