//! Which word of the shared memory means what. A program that takes over a running one (an upgrade) adopts the memory only
//! where all of the scoreboard's sources are the same.

pub(super) const WORKER_WORDS: usize = 64;
pub(super) const PID: usize = 0;
pub(super) const STATE: usize = 1;
pub(super) const GENERATION: usize = 2;
pub(super) const REQUESTS: usize = 3;
pub(super) const EXCEPTIONS: usize = 4;
pub(super) const TX_BYTES: usize = 5;
pub(super) const IDLE: usize = 6;
pub(super) const CONNECTIONS: usize = 7;
pub(super) const PROMISED: usize = 8;
pub(super) const BUSY: usize = 9;
pub(super) const WAITING: usize = 10;
pub(super) const SEALED: usize = 15;
pub(super) const RUNNING: usize = 16;
pub(super) const AVERAGE: usize = 17;
pub(super) const BORN: usize = 18;
pub(super) const BIRTHS: usize = 19;
pub(super) const BEFORE: usize = 20;
pub(super) const HARAKIRIS: usize = 21;
/// One word for each of [`DURATIONS`], and one for what took longer.
pub(super) const SPANS: usize = 24;
/// Microseconds that requests waited for a thread.
pub(super) const WAITED: usize = 40;
/// The same words as [`SPANS`], for requests that waited.
pub(super) const WAITS: usize = 41;

/// Bounds by which requests are counted, in microseconds.
pub const DURATIONS: [u64; 13] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

pub(super) const THREAD_WORDS: usize = 48;
pub(super) const SEQUENCE: usize = 0;
pub(super) const STARTED: usize = 1;
pub(super) const SERVED: usize = 2;
pub(super) const LENGTHS: usize = 3;
pub(super) const METHOD: usize = 4;
pub(super) const METHOD_WORDS: usize = 2;
pub(super) const PEER: usize = METHOD + METHOD_WORDS;
pub(super) const PEER_WORDS: usize = 6;
pub(super) const URI: usize = PEER + PEER_WORDS;
pub(super) const URI_WORDS: usize = 28;
pub(super) const WRITE_ERRORS: usize = URI + URI_WORDS;
