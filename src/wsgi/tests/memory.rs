//! A response that was met before is the same as one that was not; and the shortcuts are the same as the long way.

use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use super::fake::{Fake, apps, module, options, python, serve_all};
use crate::wsgi::raw;

/// Answers by path: what a program gives again and again, and what is like it.
const VARIANTS: &str = r"
PLAIN = ('Content-Type', 'text/plain')
SAME = [PLAIN, ('Content-Length', '2')] + [(f'X-Header-{n}', f'value number {n}') for n in range(18)]
NAMES = [name for name, _ in SAME]
fresh = lambda text: text.encode().decode()
List, Tuple, Text = type('List', (list,), {}), type('Tuple', (tuple,), {}), type('Text', (str,), {})
VARIANTS = [
    lambda: ('200 OK', SAME),
    lambda: ('200 OK', [PLAIN, ('Content-Length', '2')] + SAME[2:]),
    lambda: ('200 OK', [(name, value) for name, value in SAME]),
    lambda: ('200 OK', [(fresh(name), fresh(value)) for name, value in SAME]),
    lambda: ('200 OK', [(name, fresh(value)) for name, value in SAME]),
    lambda: ('200 OK', [[name, value] for name, value in SAME]),
    lambda: ('200 OK', [Tuple(pair) for pair in SAME]),
    lambda: ('200 OK', [(Text(name), value) for name, value in SAME]),
    lambda: ('200 OK', tuple(SAME)),
    lambda: ('200 OK', List(SAME)),
    lambda: (fresh('200 OK'), SAME),
    lambda: ('404 Not Found', SAME),
    lambda: ('204 No Content', SAME),
    lambda: ('OK', SAME),
    lambda: ('200 OK', SAME[:-1]),
    lambda: ('200 OK', SAME[::-1]),
    lambda: ('200 OK', SAME + SAME[5:9]),
    lambda: ('200 OK', []),
    lambda: ('200 OK', [(name, SAME[-1][1]) for name in NAMES if name != 'Content-Length']),
    lambda: ('200 OK', SAME + [('Content-Length', '2')]),
    lambda: ('200 OK', SAME + [('Content-Length', '3')]),
    lambda: ('200 OK', [('Content-Length', '3')] + SAME),
    lambda: ('200 OK', SAME + [('Connection', 'close')]),
    lambda: ('200 OK', SAME + [('Keep-Alive', 'x')]),
    lambda: ('200 OK', SAME + [('Date', 'today')]),
    lambda: ('200 OK', SAME + [('Status', '201 Made')]),
    lambda: ('200 OK', SAME + [('Set-Cookie', 'a=b')]),
    lambda: ('200 OK', SAME + [('X-Text', 'd\xe9j\xe0')]),
    lambda: ('200 OK', SAME + [('X-Text', '\u20ac')]),
    lambda: ('200 OK', SAME + [('X-Line', 'a\r\nb: c')]),
    lambda: ('200 OK', SAME + [('X Name', 'a')]),
    lambda: ('200 OK', SAME + [('X-Name',)]),
    lambda: ('200 OK', SAME + [PLAIN + ('more',)]),
    lambda: ('200 OK', SAME + [('X-Many', 'x' * 600)]),
    lambda: ('200 OK', SAME * 5),
]
def application(environ, start_response):
    try:
        start_response(*VARIANTS[int(environ['PATH_INFO'][1:])]())
    except (TypeError, ValueError) as error:
        start_response('500 Oops', [('X-Error', ascii(error))])
    return [b'ok']
";

fn count() -> usize {
    VARIANTS.matches("    lambda: ").count()
}

#[test]
fn a_response_met_before_is_the_same_as_one_that_was_not() {
    let apps = apps(&[("", VARIANTS)]);
    let request = |variant: usize| Fake::get(&format!("/{variant}"));
    let seen = |fake: &Fake| (fake.head_text().to_owned(), fake.text());
    let alone: Vec<_> =
        (0..count()).map(|variant| seen(&serve_all(&apps, &options(), vec![request(variant)])[0])).collect();
    assert!(alone[0].0.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nX-Header-0: "));
    for (variant, (head, _)) in alone.iter().enumerate() {
        assert!(!head.contains("\r\nb: c"), "{variant}: {head}");
    }
    // One thread has them all, some several times in a row.
    let mut random = 1u64;
    let mut draw = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let mut order = Vec::new();
    while order.len() < 3000 {
        let variant = if draw(3) == 0 { draw(3) } else { draw(count()) };
        order.extend(std::iter::repeat_n(variant, 1 + draw(7)));
    }
    let done = serve_all(&apps, &options(), order.iter().map(|&variant| request(variant)).collect());
    for (at, (fake, &variant)) in done.iter().zip(&order).enumerate() {
        assert_eq!(seen(fake), alone[variant], "response {at} is variant {variant}");
    }
}

#[test]
fn fields_are_compared_as_the_long_way_does() {
    python();
    Python::attach(|py| {
        let variants = module(py, VARIANTS).getattr("VARIANTS").unwrap();
        let lists: Vec<Bound<'_, PyList>> = variants
            .try_iter()
            .unwrap()
            .map(|variant| variant.unwrap().call0().unwrap().get_item(1).unwrap())
            .filter_map(|headers| headers.cast_into().ok())
            .collect();
        let mut same = 0;
        for one in &lists {
            let pair =
                |pair: Bound<'_, PyAny>| Some((pair.get_item(0).ok()?.unbind(), pair.get_item(1).ok()?.unbind()));
            let Some(pairs) = one.iter().map(pair).collect::<Option<Vec<_>>>() else { continue };
            for other in &lists {
                assert_eq!(raw::holds_pairs(other, &pairs), raw::holds_pairs_safely(other, &pairs), "{one} {other}");
                same += usize::from(raw::holds_pairs(other, &pairs));
            }
        }
        assert!(same > lists.len(), "{same}");
    });
}

#[test]
fn latin_1_is_what_its_characters_say() {
    python();
    Python::attach(|py| {
        let slow = |text: &str| text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<Vec<u8>>>();
        let all: String = (0..=255u8).map(char::from).collect();
        for text in
            ["", "a", "plain text", "caf\u{e9}", "\0", &all, "\u{100}", "a\u{20ac}", "\u{1f600}", "\u{ff}\u{fff}"]
        {
            let object = PyString::new(py, text);
            assert_eq!(raw::latin1_bytes(&object).map(<[u8]>::to_vec), slow(text), "{text:?}");
        }
        let lone = py.eval(c"'\\udc80'", None, None).unwrap().cast_into::<PyString>().unwrap();
        assert_eq!(raw::latin1_bytes(&lone), None);
    });
}
