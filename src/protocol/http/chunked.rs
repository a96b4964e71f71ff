//! The chunked transfer coding (RFC 9112 section 7.1), fed in any pieces.
//!
//! Sizes are hexadecimal digits and nothing else, line ends are CRLF. Extensions are checked for forbidden
//! bytes and ignored, trailer fields are checked like header fields and discarded; both are bounded over
//! the whole body, because they are work that brings no data.

use super::super::bytes;
use super::super::path::hex;
use super::super::request::{Refusal, TOO_LARGE};

/// Bytes of all chunk extensions of one body together.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// Bytes of the trailer section.
const MAX_TRAILERS: usize = 16 * 1024;
/// Digits of a chunk size: as many as a `u64` holds.
const MAX_DIGITS: u8 = 16;

/// What came of decoding a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the input that were used up.
    pub consumed: usize,
    /// Whether the last chunk and the trailer section have been read.
    pub done: bool,
}

/// Where the decoder stands; each state names what it expects next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// The first digit of a size, or a further one.
    #[default]
    Size,
    /// A byte of a chunk extension, or the CR behind it.
    Extension,
    /// The LF of a size line.
    SizeEnd,
    /// A byte of chunk data.
    Data,
    /// The CR behind chunk data.
    DataCr,
    /// The LF behind chunk data.
    DataLf,
    /// The first byte of a trailer line, or the CR of the blank line.
    TrailerStart,
    /// A further byte of a trailer's name, or its colon.
    TrailerName,
    /// A byte of a trailer's value, or the CR behind it.
    TrailerValue,
    /// The LF of a trailer line.
    TrailerEnd,
    /// The LF of the blank line.
    LastLf,
    /// The body is whole.
    Done,
}

/// A decoder for one body.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    /// Bytes of data that chunks may still announce.
    allowed: u64,
    /// Size of the current chunk while its digits are read, then what is left of its data.
    left: u64,
    digits: u8,
    extensions: usize,
    trailers: usize,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::limited(u64::MAX)
    }
}

impl Decoder {
    /// A decoder of a body of at most `limit` bytes.
    pub fn limited(limit: u64) -> Decoder {
        Decoder { state: State::Size, allowed: limit, left: 0, digits: 0, extensions: 0, trailers: 0 }
    }

    /// Decodes `input`, appending the data to `out`.
    ///
    /// # Errors
    /// 400 when the coding is broken, 413 when a chunk would pass the limit; the decoder must not be used again then.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Decoded, Refusal> {
        self.decode_at_most(input, out, usize::MAX)
    }

    /// Decodes `input`, appending at most `limit` bytes of data to `out`.
    ///
    /// # Errors
    /// As for [`Decoder::decode`].
    pub fn decode_at_most(&mut self, input: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<Decoded, Refusal> {
        let mut room = limit;
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                State::Data => {
                    let available = (input.len() - at).min(room);
                    let taken = usize::try_from(self.left).map_or(available, |left| left.min(available));
                    if taken == 0 {
                        break;
                    }
                    out.extend_from_slice(&input[at..at + taken]);
                    at += taken;
                    room -= taken;
                    self.left -= taken as u64;
                    if self.left == 0 {
                        self.state = State::DataCr;
                    }
                    continue;
                }
                State::Done => break,
                _ => self.step(byte)?,
            }
            at += 1;
        }
        Ok(Decoded { consumed: at, done: self.state == State::Done })
    }

    /// Takes one byte of framing.
    fn step(&mut self, byte: u8) -> Result<(), Refusal> {
        self.state = match (self.state, byte) {
            (State::Size, b'\r') if self.digits > 0 => State::SizeEnd,
            (State::Size, b';') if self.digits > 0 => State::Extension,
            (State::Size, _) => {
                let digit = hex(byte).ok_or(Refusal::new(400, "chunk size is not a hexadecimal number"))?;
                if self.digits == MAX_DIGITS {
                    return Err(Refusal::new(400, "chunk size is too long"));
                }
                self.digits += 1;
                self.left = self.left << 4 | u64::from(digit);
                State::Size
            }
            (State::Extension, b'\r') => State::SizeEnd,
            (State::Extension, _) => {
                self.extensions += 1;
                if !is_text(byte) {
                    return Err(Refusal::new(400, "control byte in a chunk extension"));
                }
                if self.extensions > MAX_EXTENSIONS {
                    return Err(Refusal::new(400, "chunk extensions are too long"));
                }
                State::Extension
            }
            (State::SizeEnd, b'\n') => {
                self.digits = 0;
                self.allowed = self.allowed.checked_sub(self.left).ok_or(TOO_LARGE)?;
                if self.left == 0 { State::TrailerStart } else { State::Data }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::TrailerStart, b'\r') => State::LastLf,
            (State::TrailerStart | State::TrailerName, _) => {
                self.count_trailer()?;
                if bytes::is_token(&[byte]) {
                    State::TrailerName
                } else if byte == b':' && self.state == State::TrailerName {
                    State::TrailerValue
                } else {
                    return Err(Refusal::new(400, "invalid trailer field name"));
                }
            }
            (State::TrailerValue, b'\r') => State::TrailerEnd,
            (State::TrailerValue, _) => {
                self.count_trailer()?;
                if !is_text(byte) {
                    return Err(Refusal::new(400, "control byte in a trailer field"));
                }
                State::TrailerValue
            }
            (State::TrailerEnd, b'\n') => State::TrailerStart,
            (State::LastLf, b'\n') => State::Done,
            (State::DataCr | State::DataLf, _) => {
                return Err(Refusal::new(400, "chunk data is not followed by CRLF"));
            }
            (State::SizeEnd | State::TrailerEnd | State::LastLf, _) => {
                return Err(Refusal::new(400, "bare CR in the chunked coding"));
            }
            (State::Data | State::Done, _) => return Err(Refusal::new(400, "bytes behind the chunked body")),
        };
        Ok(())
    }

    fn count_trailer(&mut self) -> Result<(), Refusal> {
        self.trailers += 1;
        if self.trailers > MAX_TRAILERS {
            return Err(Refusal::new(400, "trailer section is too long"));
        }
        Ok(())
    }
}

/// Whether a byte may stand in an extension or a field value.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    //! What needs long bodies; all else stands in `tests/corpus/http/framing.txt`.

    use super::*;

    fn decode(input: &[u8]) -> Result<Decoded, Refusal> {
        Decoder::default().decode(input, &mut Vec::new())
    }

    #[test]
    fn rfc9112_7_1_2_trailers_are_bounded() {
        let trailers = |bytes: usize| [b"0\r\nX:", vec![b'a'; bytes - 2].as_slice(), b"\r\n\r\n"].concat();
        assert!(decode(&trailers(MAX_TRAILERS)).unwrap().done);
        assert_eq!(decode(&trailers(MAX_TRAILERS + 1)).unwrap_err().status, 400);
        let many = [b"0\r\n".as_slice(), b"a:\r\n".repeat(MAX_TRAILERS / 2 + 1).as_slice()].concat();
        assert_eq!(decode(&many).unwrap_err().status, 400);
    }

    #[test]
    fn rfc9112_7_1_1_extensions_are_bounded_over_the_whole_body() {
        let chunk = |extension: usize| [b"1;", vec![b'a'; extension].as_slice(), b"\r\nx\r\n"].concat();
        assert!(decode(&chunk(MAX_EXTENSIONS)).is_ok());
        assert_eq!(decode(&chunk(MAX_EXTENSIONS + 1)).unwrap_err().status, 400);
        assert_eq!(decode(&chunk(64).repeat(MAX_EXTENSIONS / 64 + 1)).unwrap_err().status, 400);
    }

    #[test]
    fn a_long_body_is_the_same_in_any_pieces() {
        let data: Vec<u8> = (0..200_000u32).map(|n| (n * 7 + n / 251) as u8).collect();
        let mut coded = Vec::new();
        for (n, piece) in data.chunks(4099).enumerate() {
            coded.extend_from_slice(format!("{:X};n={n}\r\n", piece.len()).as_bytes());
            coded.extend_from_slice(piece);
            coded.extend_from_slice(b"\r\n");
        }
        coded.extend_from_slice(b"0\r\n\r\nGET /");
        for (size, limit) in [(1, usize::MAX), (7, 3), (1000, 999), (4096, usize::MAX), (coded.len(), 64)] {
            let (mut decoder, mut found, mut at) = (Decoder::default(), Vec::new(), 0);
            loop {
                let before = found.len();
                let input = &coded[at..coded.len().min(at + size)];
                let decoded = decoder.decode_at_most(input, &mut found, limit).unwrap();
                assert!(found.len() - before <= limit);
                at += decoded.consumed;
                if decoded.done {
                    break;
                }
                assert!(decoded.consumed > 0);
            }
            assert_eq!(at, coded.len() - b"GET /".len());
            assert!(found == data);
        }
    }
}
