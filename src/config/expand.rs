//! Replacement of names by values: `%x` variables in the text of a file before its lines are read,
//! then `$(NAME)`, `@(file)` and `%(setting)` in the values of settings.
//!
//! What is not known stays as it is written, as in uWSGI; only an unknown `%x` becomes nothing, and
//! is named. Pure: files and environment are passed in.

/// Values of the `%x` variables of one file.
#[derive(Clone, Debug, Default)]
pub(super) struct Magic {
    values: Vec<(char, String)>,
}

impl Magic {
    pub(super) fn set(&mut self, name: char, value: impl Into<String>) {
        self.values.push((name, value.into()));
    }

    fn get(&self, name: char) -> Option<&str> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }
}

/// Variables that uWSGI knows: empty rather than unknown where a file has none of it.
const KNOWN: &str = "vhVkugtTbpdsnecoxijUGODSPCENXIJ0123456789[";

/// Numbers of lines and what there is to say of each.
type Numbered = Vec<(usize, String)>;

/// Replaces the `%x` variables of a text and splits it into lines, with the number each one starts at.
/// The second value is what looks like a mistake: line number and sentence.
pub(super) fn lines(text: &str, magic: &Magic) -> (Numbered, Numbered) {
    let mut lines = Vec::new();
    let mut doubts = Vec::new();
    let (mut number, mut start) = (1, 1);
    let mut line = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => {
                lines.push((start, std::mem::take(&mut line)));
                number += 1;
                start = number;
            }
            '%' => match chars.peek().copied() {
                None => line.push('%'),
                Some('(') => line.push('%'),
                Some('%') => {
                    chars.next();
                    line.push('%');
                }
                Some(name) => {
                    chars.next();
                    // In comments only what reaches beyond the comment matters.
                    let comment = line.trim_start().starts_with([';', '#']);
                    if let Some(value) = magic.get(name) {
                        line.push_str(value);
                    } else if name == '\n' || name == '\r' {
                        let doubt = "% at the end of the line joins it with the next one; write %% for a percent sign";
                        doubts.push((number, doubt.to_owned()));
                    } else if !KNOWN.contains(name) && !comment {
                        let doubt = format!("%{name} is unknown and becomes nothing; write %% for a percent sign");
                        doubts.push((number, doubt));
                    }
                    if name == '\n' {
                        number += 1;
                    }
                }
            },
            other => line.push(other),
        }
    }
    if !line.is_empty() {
        lines.push((start, line));
    }
    (lines, doubts)
}

/// Replaces each `X(name)` by what `value` answers for the name; what it answers `None` for stays.
/// `rescan` tells whether results are searched again.
pub(super) fn replace(
    text: &str,
    sign: char,
    rescan: bool,
    value: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<String, String> {
    let opening = format!("{sign}(");
    let mut done = String::new();
    let mut rest = text.to_owned();
    let mut replaced = 0;
    while let Some(at) = rest.find(&opening) {
        let Some(length) = rest[at + 2..].find(')') else { break };
        let name = &rest[at + 2..at + 2 + length];
        let after = at + 2 + length + 1;
        match value(name) {
            None => {
                // Only the sign is passed over: a name may hold another one, as in `%(%(a))`.
                done.push_str(&rest[..at + 2]);
                rest = rest[at + 2..].to_owned();
            }
            Some(found) => {
                replaced += 1;
                // A setting that holds itself would go on for ever.
                if replaced > 1000 || done.len() + found.len() > 1 << 20 {
                    return Err(format!("{sign}({name}) holds itself"));
                }
                done.push_str(&rest[..at]);
                let tail = &rest[after..];
                if rescan {
                    rest = format!("{found}{tail}");
                } else {
                    done.push_str(&found);
                    rest = tail.to_owned();
                }
            }
        }
    }
    Ok(done + &rest)
}

/// The names that the `%(...)` of a value use.
pub(super) fn names_in(value: &str) -> Vec<String> {
    let mut names = Vec::new();
    for part in value.split("%(").skip(1) {
        if let Some((inside, _)) = part.split_once(')') {
            names.extend(inside.split(' ').filter(|word| !word.is_empty()).map(str::to_owned));
        }
    }
    names
}

/// What is between the brackets of `%(...)`: a name, or words and operators with spaces between.
/// Words stand for the values of settings, unknown ones for nothing; numbers for themselves; two
/// values without an operator are joined. Left to right, in whole numbers.
pub(super) fn calculate(inside: &str, value: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    if !inside.contains(' ') {
        return value(inside);
    }
    let mut result = String::new();
    let mut operator = None;
    for word in inside.split(' ').filter(|word| !word.is_empty()) {
        match word {
            "+" | "-" | "*" | "/" => {
                operator = Some(word);
                continue;
            }
            "++" => result = number(&result).wrapping_add(1).to_string(),
            "--" => result = number(&result).wrapping_sub(1).to_string(),
            _ => {
                let operand = match word.bytes().all(|b| b.is_ascii_digit()) {
                    true => word.to_owned(),
                    false => value(word).unwrap_or_default(),
                };
                let (left, right) = (number(&result), number(&operand));
                result = match operator.take() {
                    None => result + &operand,
                    Some("+") => left.wrapping_add(right).to_string(),
                    Some("-") => left.wrapping_sub(right).to_string(),
                    Some("*") => left.wrapping_mul(right).to_string(),
                    Some(_) => left.checked_div(right).unwrap_or(0).to_string(),
                };
            }
        }
    }
    Some(result)
}

/// As C's atoi: the digits at the start, or 0.
fn number(text: &str) -> i64 {
    let text = text.trim_start();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse::<i64>().map_or(0, |number| sign * number)
}

/// uWSGI's `%j`: the hash of a path, in hexadecimal.
pub(super) fn path_hash(path: &str) -> String {
    let hash = path.bytes().fold(5381u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(byte));
    format!("{hash:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn magic() -> Magic {
        let mut magic = Magic::default();
        magic.set('n', "app");
        magic.set('d', "/srv/");
        magic
    }

    #[test]
    fn variables_are_replaced_before_lines_are_read() {
        for (text, expected) in [
            ("a=%dlog/%n.log", vec![(1, "a=/srv/log/app.log")]),
            ("a=%%d\nb=%(c)", vec![(1, "a=%d"), (2, "b=%(c)")]),
            ("a=5% 6\nb=%", vec![(1, "a=56"), (2, "b=%")]),
            ("k=%\nl=4\nm=5", vec![(1, "k=l=4"), (3, "m=5")]),
            ("%n=1\n", vec![(1, "app=1")]),
            ("x=%E", vec![(1, "x=")]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|(n, line)| (n, line.to_owned())).collect();
            assert_eq!(lines(text, &magic()).0, expected, "{text:?}");
        }
    }

    #[test]
    fn what_becomes_nothing_is_named() {
        let doubts = |text: &str| lines(text, &magic()).1;
        assert_eq!(doubts("log-date = %Y-%m-%n %%x %E %(a)").len(), 2);
        assert_eq!(doubts("# 50% of it\n; %Y").len(), 0);
        assert_eq!(doubts("# 100%\na=1")[0].0, 1);
    }

    #[test]
    fn expressions_give_what_uwsgi_gives() {
        let value = |name: &str| match name {
            "processes" => Some("2".to_owned()),
            "b" => Some("4".to_owned()),
            _ => None,
        };
        for (inside, expected) in [
            ("processes", Some("2")),
            ("nope", None),
            ("", None),
            ("nope x", Some("")),
            ("processes + 2", Some("4")),
            ("processes 3", Some("23")),
            ("processes + nope", Some("2")),
            ("processes ++", Some("3")),
            ("b * 3", Some("12")),
            ("processes+2", None),
            ("processes - 5", Some("-3")),
            ("7 / 2", Some("3")),
            ("4 + 1 * 3", Some("15")),
            ("processes / 0", Some("0")),
            (" processes ", Some("2")),
        ] {
            assert_eq!(calculate(inside, &value).as_deref(), expected, "{inside:?}");
        }
    }

    #[test]
    fn unknown_names_stay_and_results_are_searched_again() {
        let mut value = |name: &str| match name {
            "a" => Some("%(b)!".to_owned()),
            "b" => Some("x".to_owned()),
            _ => None,
        };
        assert_eq!(replace("<%(a)> %(method) %(b", '%', true, &mut value).unwrap(), "<x!> %(method) %(b");
        assert_eq!(replace("<%(a)>", '%', false, &mut value).unwrap(), "<%(b)!>");
        let mut circle = |_: &str| Some("%(a)".to_owned());
        assert!(replace("%(a)", '%', true, &mut circle).is_err());
    }

    #[test]
    fn names_that_values_use_are_found() {
        assert_eq!(names_in("/%(a)/%(b + 1)%(c"), ["a", "b", "+", "1"]);
    }
}
