//! JSON text from bytes of anybody: valid, on one line, and without anything that commands a terminal.

use std::io::Write;

/// Appends `bytes` as the inside of a JSON string. What is not UTF-8 is replaced by U+FFFD.
pub(super) fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    if bytes.iter().all(|byte| (0x20..0x7f).contains(byte) && !matches!(byte, b'"' | b'\\')) {
        return out.extend_from_slice(bytes);
    }
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                // The line separators of Unicode end a line for some.
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                    // Writing to a vector cannot fail.
                    let _ = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Appends `"name":"value"`, behind a comma unless it is the first.
pub(super) fn text(name: &str, value: &[u8], out: &mut Vec<u8>) {
    key(name, out);
    out.push(b'"');
    escape(value, out);
    out.push(b'"');
}

/// Appends `"name":value`.
pub(super) fn number(name: &str, value: impl itoa::Integer, out: &mut Vec<u8>) {
    key(name, out);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn key(name: &str, out: &mut Vec<u8>) {
    // A value never ends with an open brace: its quotation mark comes after it.
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        escape(bytes, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn any_bytes_become_the_inside_of_a_string() {
        assert_eq!(escaped(b"plain /path?x=1"), "plain /path?x=1");
        assert_eq!(
            escaped("a\"b\\c\nd\re\tf\u{1b}[31m\u{7f}\u{9b}\u{2028}ü".as_bytes()),
            concat!(r#"a\"b\\c\nd\re\tf\u001b[31m\u007f\u009b\u2028"#, "ü")
        );
        assert_eq!(escaped(b"\xff\xfe{\xc3"), "\u{fffd}\u{fffd}{\u{fffd}");
        for byte in 0..=255u8 {
            let text = format!("\"{}\"", escaped(&[b'x', byte, b'y']));
            let parsed: String = serde_json::from_str(&text).unwrap();
            assert_eq!(parsed, String::from_utf8_lossy(&[b'x', byte, b'y']));
        }
    }

    #[test]
    fn members_are_parted_by_commas() {
        let mut out = b"{".to_vec();
        number("a", 1, &mut out);
        text("b", b"{", &mut out);
        number("c", -3, &mut out);
        assert_eq!(out, br#"{"a":1,"b":"{","c":-3"#);
    }
}
