//! Names and values, as PARAMS and GET_VALUES carry them (section 3.4); and what those of PARAMS mean.

use crate::protocol::cgi::Vars;
use crate::protocol::request::{BodyLength, Refusal, Request, Span};

/// Reads all variables of a request, and what they say about it.
pub(super) fn variables(params: &[u8], out: &mut Request) -> Result<(), Refusal> {
    let mut vars = Vars::begin(params.len(), out);
    let mut at = 0;
    while at < params.len() {
        let (name, value) =
            pair(params, at).ok_or(Refusal::new(400, "FastCGI variable runs over the end of PARAMS"))?;
        at = value.end as usize;
        vars.take(params, name, value, out)?;
    }
    vars.finish(params, out)?;
    // Whatever the client's framing was: here STDIN is the body, and ends it.
    if !matches!(out.body, BodyLength::Length(_)) {
        out.body = BodyLength::UntilEnd;
    }
    Ok(())
}

/// The name and the value at `at` (section 3.4): two lengths, then two texts.
#[inline]
pub(super) fn pair(bytes: &[u8], at: usize) -> Option<(Span, Span)> {
    let (name_len, at) = length(bytes, at)?;
    let (value_len, at) = length(bytes, at)?;
    let middle = at.checked_add(name_len)?;
    let end = middle.checked_add(value_len)?;
    (end <= bytes.len()).then(|| (Span::new(at, middle), Span::new(middle, end)))
}

/// A length of one byte, or of four with the first bit set; and the place behind it.
#[inline]
fn length(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    match bytes.get(at..)? {
        [short @ 0..=0x7f, ..] => Some((usize::from(*short), at + 1)),
        [a, b, c, d, ..] => Some((u32::from_be_bytes([a & 0x7f, *b, *c, *d]) as usize, at + 4)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_one_and_of_four_bytes() {
        assert_eq!(length(b"\x7f", 0), Some((127, 1)));
        assert_eq!(length(b"\x80\0\0\x80", 0), Some((128, 4)));
        assert_eq!(length(b"\xff\xff\xff\xff", 0), Some((0x7fff_ffff, 4)));
        assert_eq!(length(b"\x80\0\0", 0), None);
        assert_eq!(length(b"", 0), None);
    }
}
