//! From the path of a request target to PATH_INFO.
//!
//! As uWSGI does it: the fragment is cut, dot segments are collapsed where they stand literally, then
//! escapes are decoded, once. So `/a/../b` is `/b`, while `/a/%2e%2e/b` reaches the application as
//! `/a/../b` and `%2f` is a slash that no dot segment counts. Empty segments stay.
//!
//! Unlike uWSGI: an invalid escape stays as it is (there, a NUL byte), a NUL byte is refused,
//! and `/..` is `/` (there, the empty path).

use super::request::Refusal;

/// Puts PATH_INFO for `raw_path`, a target without its query, into `out`.
///
/// # Errors
/// 400 when the path holds a NUL byte, escaped or not.
pub fn normalise(raw_path: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    out.clear();
    if memchr::memchr3(b'%', b'.', b'#', raw_path).is_none() {
        out.extend_from_slice(raw_path);
    } else {
        let end = memchr::memchr(b'#', raw_path).unwrap_or(raw_path.len());
        collapse(&raw_path[..end], out);
        decode(out);
    }
    if memchr::memchr(0, out).is_some() {
        return Err(Refusal::new(400, "NUL byte in the path"));
    }
    Ok(())
}

/// Appends `path` without its `.` and `..` segments.
fn collapse(path: &[u8], out: &mut Vec<u8>) {
    let mut segments = path.split(|&byte| byte == b'/').peekable();
    let mut first = true;
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"." | b".." => {
                if segment == b".." {
                    // `out` ends behind the segment to take away, without a slash.
                    out.truncate(memchr::memrchr(b'/', out).unwrap_or(0));
                }
                if last {
                    out.push(b'/');
                }
            }
            _ => {
                if !first {
                    out.push(b'/');
                }
                out.extend_from_slice(segment);
            }
        }
        first = false;
    }
}

/// Decodes percent escapes in place, once.
fn decode(path: &mut Vec<u8>) {
    let Some(mut read) = memchr::memchr(b'%', path) else { return };
    let mut write = read;
    while let Some(&byte) = path.get(read) {
        let escaped = match path.get(read + 1..read + 3) {
            Some(&[high, low]) if byte == b'%' => hex(high).zip(hex(low)),
            _ => None,
        };
        if let Some((high, low)) = escaped {
            path[write] = high << 4 | low;
            read += 3;
        } else {
            path[write] = byte;
            read += 1;
        }
        write += 1;
    }
    path.truncate(write);
}

/// The value of a hexadecimal digit.
#[inline]
pub(super) fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_info(raw: &[u8]) -> Vec<u8> {
        let mut out = b"left over".to_vec();
        normalise(raw, &mut out).unwrap();
        out
    }

    /// Each line was tried with uWSGI 2.0.31's http-socket, and gives the same there.
    #[test]
    fn same_path_info_as_uwsgi() {
        for (raw, expected) in [
            ("/foo", "/foo"),
            ("./foo", "/foo"),
            ("../b", "/b"),
            (".", "/"),
            ("/./foo", "/foo"),
            ("/a/../b", "/b"),
            ("/a/./b", "/a/b"),
            ("/../b", "/b"),
            ("/../../b", "/b"),
            ("/a/../../../b/c", "/b/c"),
            ("/.", "/"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a/../", "/"),
            ("/a/./", "/a/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../..", "/"),
            ("/a/b/../../", "/"),
            ("/a/b/c/../../d/./e", "/a/d/e"),
            ("/./.././a", "/a"),
            ("//a", "//a"),
            ("/a//b", "/a//b"),
            ("/a//../b", "/a/b"),
            ("//../b", "/b"),
            ("/a/..//b", "//b"),
            ("/a//..", "/a/"),
            ("//..", "/"),
            ("/#a", "/"),
            ("/a#b", "/a"),
            ("/a/..#b", "/"),
            ("/a%23b", "/a#b"),
            ("/a%3fb", "/a?b"),
            ("/a+b", "/a+b"),
            ("/%252e", "/%2e"),
            ("/a%2fb", "/a/b"),
            ("/%2e", "/."),
            ("/%2e%2e", "/.."),
            ("/%2e%2e/b", "/../b"),
            ("/a/%2e%2e/b", "/a/../b"),
            ("/a/.%2e/b", "/a/../b"),
            ("/a/%2e/b", "/a/./b"),
            ("/a/%2e%2e/../b", "/a/b"),
            ("/a%2f..%2fb", "/a/../b"),
            ("/a%2f../b", "/a/../b"),
            ("/a%2e%2e/b", "/a../b"),
            ("/a/...", "/a/..."),
            ("/foo/.../bar", "/foo/.../bar"),
            ("/a/..b", "/a/..b"),
            ("/a/b..", "/a/b.."),
            ("/a/.b", "/a/.b"),
            ("/a/b.", "/a/b."),
            ("/caf\u{e9}", "/caf\u{e9}"),
            ("/caf%C3%A9", "/caf\u{e9}"),
        ] {
            assert_eq!(path_info(raw.as_bytes()), expected.as_bytes(), "{raw}");
        }
    }

    #[test]
    fn an_invalid_escape_stays() {
        for raw in ["/%", "/%4", "/%zz", "/%4z", "/%z4", "/%%", "/a%/b", "/%+1"] {
            assert_eq!(path_info(raw.as_bytes()), raw.as_bytes(), "{raw}");
        }
        assert_eq!(path_info(b"/%%41%4"), b"/%A%4");
        assert_eq!(path_info(b"/a/../%zz"), b"/%zz");
    }

    #[test]
    fn too_many_dots_stop_at_the_root() {
        for raw in ["/..", "..", "/a/b/../../.."] {
            assert_eq!(path_info(raw.as_bytes()), b"/", "{raw}");
        }
    }

    #[test]
    fn nul_is_refused_escaped_or_not() {
        for raw in [&b"/%00"[..], b"/a\0b", b"/a/../%00"] {
            let refusal = normalise(raw, &mut Vec::new()).unwrap_err();
            assert_eq!(refusal.status, 400, "{raw:?}");
        }
        assert_eq!(path_info(b"/%2500"), b"/%00", "decoded once");
        assert_eq!(path_info(b"/#%00"), b"/", "cut before it is looked at");
    }
}
