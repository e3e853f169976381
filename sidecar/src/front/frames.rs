//! Frames of a WebSocket (RFC 6455, 5.2), as far as one has to look into them to see a handshake go by.

/// Opcodes that matter.
const TEXT: u8 = 1;
const FIRST_CONTROL: u8 = 8;

/// Largest frame that is looked into, in bytes. The messages of a handshake have some kilobytes.
pub(super) const LARGEST: usize = 64 * 1024;

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Too little to tell.
    Partial,
    /// A frame of this length, header and all.
    Frame { length: usize, kind: Kind },
    /// A frame that is larger than what is looked into, or in several pieces.
    Opaque,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole text message, unmasked.
    Text(Vec<u8>),
    /// Ping, pong, close.
    Control,
    /// Anything else.
    Other,
}

/// Looks at the first frame. Never reads beyond it.
pub(super) fn first(bytes: &[u8]) -> Seen {
    let [head, size, rest @ ..] = bytes else { return Seen::Partial };
    let (is_final, extensions, opcode) = (head & 0x80 != 0, head & 0x70, head & 0x0f);
    let is_masked = size & 0x80 != 0;
    let (payload, rest) = match size & 0x7f {
        126 => match rest.split_first_chunk::<2>() {
            Some((size, rest)) => (u64::from(u16::from_be_bytes(*size)), rest),
            None => return Seen::Partial,
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((size, rest)) => (u64::from_be_bytes(*size), rest),
            None => return Seen::Partial,
        },
        size => (u64::from(size), rest),
    };
    // Compressed or extended in another way: nobody was offered that.
    let Some(payload) = usize::try_from(payload).ok().filter(|payload| *payload <= LARGEST && extensions == 0) else {
        return Seen::Opaque;
    };
    if opcode < FIRST_CONTROL && (!is_final || opcode == 0) {
        return Seen::Opaque;
    }
    let (mask, rest) = if is_masked {
        match rest.split_first_chunk::<4>() {
            Some((mask, rest)) => (*mask, rest),
            None => return Seen::Partial,
        }
    } else {
        ([0; 4], rest)
    };
    let Some(payload) = rest.get(..payload) else { return Seen::Partial };
    let length = bytes.len() - rest.len() + payload.len();
    let kind = match opcode {
        TEXT => Kind::Text(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()),
        FIRST_CONTROL.. => Kind::Control,
        _ => Kind::Other,
    };
    Seen::Frame { length, kind }
}

/// A close frame of a server.
pub(super) fn close(code: u16, reason: &str) -> Vec<u8> {
    let reason = reason.as_bytes().get(..reason.len().min(123)).unwrap_or_default();
    let mut frame = vec![0x80 | 8, (2 + reason.len()) as u8];
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(reason);
    frame
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A text frame as a client (masked) or a server sends it.
    pub(in super::super) fn text(payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut frame = vec![0x80 | TEXT];
        let bit = if mask.is_some() { 0x80 } else { 0 };
        match payload.len() {
            size @ 0..126 => frame.push(bit | size as u8),
            size @ 126..65536 => {
                frame.push(bit | 126);
                frame.extend_from_slice(&(size as u16).to_be_bytes());
            }
            size => {
                frame.push(bit | 127);
                frame.extend_from_slice(&(size as u64).to_be_bytes());
            }
        }
        let key = mask.unwrap_or_default();
        frame.extend(mask.into_iter().flatten());
        frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    #[test]
    fn the_example_of_the_standard() {
        let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(first(&masked), Seen::Frame { length: 11, kind: Kind::Text(b"Hello".to_vec()) });
        assert_eq!(first(&[0x89, 0x00, 0xff]), Seen::Frame { length: 2, kind: Kind::Control });
        assert_eq!(first(&close(1012, "again")), Seen::Frame { length: 9, kind: Kind::Control });
    }

    #[test]
    fn what_cannot_be_looked_into_is_said_so() {
        for opaque in [
            &[0x01, 0x05][..],
            &[0x80, 0x05],
            &[0xc1, 0x05],
            &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 1],
            &[0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255],
        ] {
            assert_eq!(first(opaque), Seen::Opaque, "{opaque:?}");
        }
        assert_eq!(first(&[0x82, 0x01, 0x00]), Seen::Frame { length: 3, kind: Kind::Other });
    }

    proptest! {
        #[test]
        fn frames_are_read_back(payload in proptest::collection::vec(any::<u8>(), 0..70_000), mask in any::<Option<[u8; 4]>>(), behind in proptest::collection::vec(any::<u8>(), 0..9)) {
            let frame = text(&payload, mask);
            let mut bytes = frame.clone();
            bytes.extend_from_slice(&behind);
            if payload.len() > LARGEST {
                prop_assert_eq!(first(&bytes), Seen::Opaque);
            } else {
                prop_assert_eq!(first(&bytes), Seen::Frame { length: frame.len(), kind: Kind::Text(payload) });
                for cut in [1, frame.len() / 2, frame.len() - 1] {
                    let seen = first(&frame[..cut]);
                    prop_assert!(seen == Seen::Partial || cut == frame.len());
                }
            }
        }

        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Seen::Frame { length, .. } = first(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
