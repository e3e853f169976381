//! What is right, what is not, and that it makes no difference in which pieces it comes.

use proptest::prelude::*;

use super::*;

/// Where the spoilt byte is, if there is one, when the text comes in pieces of this size.
fn spoilt(text: &str, piece: usize) -> Option<usize> {
    let mut bytes = text.replace('~', "\r\n").into_bytes();
    let mut framing = Framing::default();
    for piece in bytes.chunks_mut(piece) {
        framing.check(piece);
    }
    bytes.iter().position(|byte| *byte == NUL)
}

const RIGHT: &[&str] = &[
    "GET / HTTP/1.1~Host: x~~",
    "~~GET / HTTP/1.1~Host: x~~GET / HTTP/1.1~Host: x~~",
    "PUT / HTTP/1.1~Content-Length: 5~~a\nb\rcGET / HTTP/1.1~~",
    "PUT / HTTP/1.1~Content-Length: 0~~GET / HTTP/1.1~~",
    "PUT / HTTP/1.1~Transfer-Encoding: chunked~~5~a\nb\rc~0~~GET / HTTP/1.1~~",
    "PUT / HTTP/1.1~transfer-encoding:chunked~~a~0123456789~A~0123456789~0~Trailer: x~~GET / HTTP/1.1~~",
    "GET / HTTP/1.1~Upgrade: websocket~~\u{1}\n\n\r\r",
    "GET / HTTP/1.0~~",
];

const WRONG: &[&str] = &[
    "GET / HTTP/1.1\nHost: x\n\n",
    "GET / HTTP/1.1~Host: x\n~",
    "GET / HTTP/1.1~X: a\rb~~",
    "GET / HTTP/1.1~X: a~ b~~",
    "GET / HTTP/1.1~X: a~\tb~~",
    "\nGET / HTTP/1.1~~",
    "PUT / HTTP/1.1~Content-Length: 1~Content-Length: 1~~a",
    "PUT / HTTP/1.1~Content-Length: 1~Transfer-Encoding: chunked~~0~~",
    "PUT / HTTP/1.1~Transfer-Encoding: chunked~Content-Length: 1~~0~~",
    "PUT / HTTP/1.1~Transfer-Encoding: chunked~Transfer-Encoding: chunked~~0~~",
    "PUT / HTTP/1.1~Transfer-Encoding: chunked, chunked~~0~~",
    "PUT / HTTP/1.1~Transfer-Encoding: gzip, chunked~~0~~",
    "PUT / HTTP/1.1~Transfer-Encoding : chunked~~0~~",
    "PUT / HTTP/1.1~Transfer-Encoding: \u{b}chunked~~0~~",
    "PUT / HTTP/1.0~Transfer-Encoding: chunked~~0~~",
    "PUT / HTTP/1.1~Content-Length : 1~~a",
    "PUT / HTTP/1.1~Content-Length: +1~~a",
    "PUT / HTTP/1.1~Content-Length: 1, 1~~a",
    "PUT / HTTP/1.1~Content-Length:~~",
    "PUT / HTTP/1.1~Content-Length: 99999999999999999~~",
    "PUT / HTTP/1.1~Transfer-Encoding: chunked~~1;x=y~a~0~~",
    "PUT / HTTP/1.1~Transfer-Encoding: chunked~~1 ~a~0~~",
    "PUT / HTTP/1.1~Transfer-Encoding: chunked~~ 1~a~0~~",
    "PUT / HTTP/1.1~Transfer-Encoding: chunked~~0x1~a~0~~",
    "PUT / HTTP/1.1~Transfer-Encoding: chunked~~1\na~0~~",
    "PUT / HTTP/1.1~Transfer-Encoding: chunked~~1~ab~0~~",
    "PUT / HTTP/1.1~Transfer-Encoding: chunked~~1~a\n0~~",
    "PUT / HTTP/1.1~Transfer-Encoding: chunked~~~0~~",
    "PUT / HTTP/1.1~Transfer-Encoding: chunked~~00000000000000001~a~0~~",
    "PUT / HTTP/1.1~Transfer-Encoding: chunked~~0~X: a\n~",
    "GET / HTTP/1.1~~GET / HTTP/1.1\n\n",
];

#[test]
fn right_requests_are_left_alone() {
    for text in RIGHT {
        for piece in [1, 2, 3, 7, 1000] {
            assert_eq!(spoilt(text, piece), None, "{text:?} in pieces of {piece}");
        }
    }
}

#[test]
fn others_are_spoilt_at_the_same_byte() {
    for text in WRONG {
        let whole = spoilt(text, 1000);
        assert!(whole.is_some(), "{text:?}");
        for piece in [1, 2, 3, 7] {
            assert_eq!(spoilt(text, piece), whole, "{text:?} in pieces of {piece}");
        }
    }
}

#[test]
fn long_lines_do_not_pile_up() {
    let mut framing = Framing::default();
    framing.check(format!("GET /{} HTTP/1.1\r\nX: ", "x".repeat(50_000)).into_bytes().as_mut_slice());
    framing.check(vec![b'y'; 1 << 20].as_mut_slice());
    assert!(framing.line.capacity() <= 2 * LINE && framing.in_head());
}

proptest! {
    /// However it is cut, the same bytes come out.
    #[test]
    fn pieces_make_no_difference(bytes in proptest::collection::vec(prop::sample::select(b"GE/ HTP1.:0a\r\nContet-Lghchunkdr;,5\0".to_vec()), 0..300), piece in 1usize..20) {
        let (mut whole, mut cut) = (bytes.clone(), bytes);
        Framing::default().check(&mut whole);
        let mut framing = Framing::default();
        cut.chunks_mut(piece).for_each(|piece| framing.check(piece));
        prop_assert_eq!(whole, cut);
    }

    /// A body comes through as it is, whatever it looks like.
    #[test]
    fn bodies_are_left_alone(body in proptest::collection::vec(any::<u8>(), 0..200), cuts in proptest::collection::vec(1usize..50, 1..8), piece in 1usize..64) {
        let mut with_length = format!("PUT / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        with_length.extend_from_slice(&body);
        let mut chunked = b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let mut rest = body.as_slice();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (chunk, left) = rest.split_at(rest.len().min(*cut));
            chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            chunked.extend_from_slice(chunk);
            chunked.extend_from_slice(b"\r\n");
            rest = left;
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        for mut request in [with_length, chunked] {
            request.extend_from_slice(b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n");
            let mut checked = request.clone();
            let mut framing = Framing::default();
            checked.chunks_mut(piece).for_each(|piece| framing.check(piece));
            prop_assert_eq!(&request, &checked);
            prop_assert_eq!(framing.at, At::Start);
        }
    }
}
