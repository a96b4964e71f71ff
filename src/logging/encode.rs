//! What encoders make of a line before a logger gets it: `log-encoder`, `log-req-encoder`.

use std::time::{SystemTime, UNIX_EPOCH};

use super::json;
use crate::config::logs::{Deed, Encoder, Piece};

/// What `encoders` make of `message` for the logger that is called `logger`, one after the other.
pub(super) fn encode(encoders: &[Encoder], logger: Option<&str>, message: &[u8]) -> Vec<u8> {
    let mut text = message.to_vec();
    for encoder in encoders.iter().filter(|encoder| encoder.only.is_none() || encoder.only.as_deref() == logger) {
        match &encoder.deed {
            Deed::Prefix(prefix) => text = [prefix.as_bytes(), &text].concat(),
            Deed::Suffix(suffix) => text.extend_from_slice(suffix.as_bytes()),
            Deed::LineEnd => text.push(b'\n'),
            Deed::Format(pieces) => text = fill(pieces, &text, |bytes, out| out.extend_from_slice(bytes)),
            Deed::Json(pieces) => text = fill(pieces, &text, json::escape),
        }
    }
    text
}

fn fill(pieces: &[Piece], message: &[u8], escape: fn(&[u8], &mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 64);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Message => escape(message.strip_suffix(b"\n").unwrap_or(message), &mut out),
            Piece::MessageWithEnd => escape(message, &mut out),
            Piece::Seconds => out.extend_from_slice(now.as_secs().to_string().as_bytes()),
            Piece::Millis => out.extend_from_slice(now.as_millis().to_string().as_bytes()),
            Piece::Micros => out.extend_from_slice(now.as_micros().to_string().as_bytes()),
            Piece::Time(format) => {
                // The format was tried when the configuration was read.
                let text = jiff::fmt::strtime::format(format, &jiff::Zoned::now()).unwrap_or_default();
                escape(text.as_bytes(), &mut out);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(deed: Deed) -> Encoder {
        Encoder { only: None, deed }
    }

    #[test]
    fn encoders_work_one_after_the_other() {
        let encoders = [
            all(Deed::Format(vec![Piece::Text("<".into()), Piece::Message, Piece::Text(">".into())])),
            all(Deed::Prefix("a ".into())),
            all(Deed::Suffix(" z".into())),
            all(Deed::LineEnd),
        ];
        assert_eq!(encode(&encoders, None, b"text\n"), b"a <text> z\n");
    }

    #[test]
    fn an_encoder_with_a_name_is_for_that_logger_alone() {
        let encoder = Encoder { only: Some("one".into()), deed: Deed::Prefix("x".into()) };
        assert_eq!(encode(std::slice::from_ref(&encoder), Some("one"), b"y"), b"xy");
        assert_eq!(encode(std::slice::from_ref(&encoder), None, b"y"), b"y");
        assert_eq!(encode(&[encoder], Some("two"), b"y"), b"y");
    }

    #[test]
    fn json_escapes_what_is_put_in_and_not_the_template() {
        let pieces = vec![Piece::Text("{\"m\":\"".into()), Piece::MessageWithEnd, Piece::Text("\"}\n".into())];
        assert_eq!(encode(&[all(Deed::Json(pieces))], None, b"a\"b\x1b\n"), b"{\"m\":\"a\\\"b\\u001b\\n\"}\n");
    }

    #[test]
    fn times_are_told() {
        let pieces =
            vec![Piece::Seconds, Piece::Text(" ".into()), Piece::Millis, Piece::Text(" ".into()), Piece::Micros];
        let text = String::from_utf8(encode(&[all(Deed::Format(pieces))], None, b"")).unwrap();
        let numbers: Vec<u128> = text.split(' ').map(|word| word.parse().unwrap()).collect();
        assert_eq!((numbers[1] / 1000, numbers[2] / 1_000_000), (numbers[0], numbers[0]));
        let year = encode(&[all(Deed::Json(vec![Piece::Time("%Y".into())]))], None, b"");
        assert_eq!(year.len(), 4);
    }
}
