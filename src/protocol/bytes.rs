//! Byte classes and scans that the parsers share.
//!
//! Scans look at eight bytes at a time with plain integer arithmetic: heads are a few hundred bytes, where
//! this is as fast as vector instructions and needs no unsafe code.

/// Bit of [`CLASS`]: a `tchar` of RFC 9110 section 5.6.2.
const TOKEN: u8 = 1;
/// Bit of [`CLASS`]: `_`, which is a `tchar` too.
const UNDERSCORE: u8 = 2;
/// Bit of [`CLASS`]: may stand in a registered name, an IPv4 address or a port.
const HOST: u8 = 4;

const CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let letter = byte as u8;
        if letter.is_ascii_alphanumeric() {
            table[byte] = TOKEN | HOST;
        }
        byte += 1;
    }
    let tokens = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < tokens.len() {
        table[tokens[at] as usize] |= TOKEN;
        at += 1;
    }
    // RFC 3986 reg-name: unreserved, pct-encoded and sub-delims.
    let hosts = b"-._~%!$&'()*+,;=";
    let mut at = 0;
    while at < hosts.len() {
        table[hosts[at] as usize] |= HOST;
        at += 1;
    }
    table[b'_' as usize] |= UNDERSCORE;
    table
};

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The length of the token that `bytes` begins with, and whether it holds a `_`.
#[inline]
pub(super) fn token_len(bytes: &[u8]) -> (usize, bool) {
    let (mut at, mut seen) = (0, 0);
    loop {
        // Most names are letters and hyphens: eight of them at a time.
        while let Some(group) = bytes.get(at..at + 8) {
            let good = letters_len(word(group));
            at += good;
            if good < 8 {
                break;
            }
        }
        let Some(&byte) = bytes.get(at) else { break };
        let class = CLASS[byte as usize];
        if class & TOKEN == 0 {
            break;
        }
        seen |= class;
        at += 1;
    }
    (at, seen & UNDERSCORE != 0)
}

/// How many of the eight bytes in a word, from the lowest on, are letters or hyphens.
#[inline]
fn letters_len(word: u64) -> usize {
    let low = word & !HIGHS;
    let small = low | (ONES * 0x20);
    // None of these sums carries into the next byte.
    let letters = (small + ONES * (0x80 - b'a' as u64)) & !(small + ONES * (0x7f - b'z' as u64));
    let hyphens = !((low ^ (ONES * b'-' as u64)) + ONES * 0x7f);
    let bad = (!(letters | hyphens) | word) & HIGHS;
    bad.trailing_zeros() as usize / 8
}

/// Eight bytes as a number, the first one lowest.
#[inline]
fn word(group: &[u8]) -> u64 {
    u64::from_le_bytes([group[0], group[1], group[2], group[3], group[4], group[5], group[6], group[7]])
}

/// Whether `bytes` is a token: one `tchar` or more.
#[inline]
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().fold(TOKEN, |all, &byte| all & CLASS[byte as usize]) != 0
}

/// Offset of the first byte that is below `floor` or DEL, or the length of `bytes`.
#[inline]
fn printable_len<const FLOOR: u8>(bytes: &[u8]) -> usize {
    let floor = ONES * FLOOR as u64;
    let mut at = 0;
    while let Some(group) = bytes.get(at..at + 8) {
        let word = word(group);
        let delete = word ^ (ONES * 0x7f);
        // The borrow of a subtraction only spoils bytes above a true hit, so the lowest mark is exact.
        let marks = ((word.wrapping_sub(floor) & !word) | (delete.wrapping_sub(ONES) & !delete)) & HIGHS;
        if marks != 0 {
            return at + marks.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte < FLOOR || byte == 0x7f {
            break;
        }
        at += 1;
    }
    at
}

/// The length of the request target that `bytes` begins with: up to a blank, a control byte or DEL.
#[inline]
pub(super) fn target_len(bytes: &[u8]) -> usize {
    printable_len::<0x21>(bytes)
}

/// The length of the field value that `bytes` begins with (RFC 9110 section 5.5): up to a control byte other than
/// the tab. Bytes from 0x80 are `obs-text` and pass.
#[inline]
pub(super) fn value_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        at += printable_len::<0x20>(&bytes[at..]);
        if bytes.get(at) != Some(&b'\t') {
            return at;
        }
        at += 1;
    }
}

/// `bytes` without the blanks and tabs around it.
#[inline]
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    let mut bytes = bytes;
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The members of a comma separated list, trimmed, without the empty ones (RFC 9110 section 5.6.1.2).
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim).filter(|member| !member.is_empty())
}

/// The value of a text that is one decimal digit or more and nothing else.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Whether `host` is a valid `uri-host [ ":" port ]` (RFC 9110 section 7.2). The empty host is left to the caller.
pub(super) fn is_host(host: &[u8]) -> bool {
    let port = if let Some(rest) = host.strip_prefix(b"[") {
        let Some(end) = memchr::memchr(b']', rest) else { return false };
        let literal = &rest[..end];
        if !literal.contains(&b':') || !literal.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')) {
            return false;
        }
        &rest[end + 1..]
    } else {
        let (mut end, mut before) = (0, 0);
        for &byte in host {
            if CLASS[byte as usize] & HOST == 0 || (byte == b'.' && before == b'.') {
                break;
            }
            before = byte;
            end += 1;
        }
        if end == 0 {
            return false;
        }
        &host[end..]
    };
    match port {
        [] | [b':'] => true,
        [b':', digits @ ..] => decimal(digits).is_some_and(|port| port <= 65535),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scans_stop_exactly_at_the_first_bad_byte() {
        for len in 0..40 {
            for bad in 0..=255u8 {
                let mut text = vec![b'a'; len];
                text.push(bad);
                text.extend_from_slice(b"\x01\xff\x7f more bytes behind");
                let control = bad < 0x20 || bad == 0x7f;
                let value_end = if control && bad != b'\t' { len } else { len + 1 };
                assert_eq!(value_len(&text), value_end, "value, byte {bad:#x} at {len}");
                let target_end = if control || bad == b' ' { len } else { len + 1 };
                assert_eq!(target_len(&text), target_end, "target, byte {bad:#x} at {len}");
            }
        }
    }

    #[test]
    fn tokens_end_exactly_at_the_first_byte_that_is_none() {
        let slow = |bytes: &[u8]| {
            let len = bytes.iter().take_while(|&&byte| CLASS[byte as usize] & TOKEN != 0).count();
            (len, bytes[..len].contains(&b'_'))
        };
        for len in 0..26 {
            for filler in [&b"x-"[..], b"Az", b"a_", b"0-", b"~z"] {
                for bad in 0..=255u8 {
                    let mut text: Vec<u8> = filler.iter().copied().cycle().take(len).collect();
                    text.push(bad);
                    assert_eq!(token_len(&text), slow(&text), "{}", text.escape_ascii());
                    assert_eq!(is_token(&text), slow(&text).0 == text.len(), "{}", text.escape_ascii());
                    text.extend_from_slice(b"behind-it: y\xff");
                    assert_eq!(token_len(&text), slow(&text), "{}", text.escape_ascii());
                }
            }
        }
    }

    #[test]
    fn decimal_is_digits_only() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"0042"), Some(42));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b""[..], b"18446744073709551616", b"+1", b"-1", b" 1", b"1 ", b"1_0", b"0x1", b"1,1", b"\xb2"] {
            assert_eq!(decimal(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn rfc9110_7_2_hosts() {
        for good in
            ["h", "example.org", "example.org.", "h:80", "h:", "a_b", "127.0.0.1:8080", "[::1]", "[::1]:80", "%41"]
        {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a b",
            "a/b",
            "a@b",
            "a..b",
            "h:x",
            "h:80:80",
            "h:65536",
            "[::1",
            "[]",
            "[::1]x",
            "::1",
            "a\\b",
            "caf\u{e9}",
            "a?b",
            "a#b",
            "<h>",
            "h:+80",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }
}
