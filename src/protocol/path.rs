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
