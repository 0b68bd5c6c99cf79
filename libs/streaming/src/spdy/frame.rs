//! Frames on the wire.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::headers::{Decoder, Encoder, Headers};

const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;
/// The longest control frame to accept, in bytes.
const MAX_CONTROL: usize = 64 << 10;
/// The longest piece of a data frame to hand on at once, in bytes.
const MAX_PIECE: usize = 32 << 10;
/// The longest data frame that the length field allows.
const MAX_DATA: usize = (1 << 24) - 1;

/// Why a session cannot go on.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// A frame of another version.
    #[error("SPDY version {0}, expected 3")]
    Version(u16),
    /// A control frame that is too long or too short.
    #[error("control frame of type {kind} with {length} bytes")]
    Length {
        /// Its type.
        kind: u16,
        /// Its length.
        length: usize,
    },
    /// A header block that cannot be read.
    #[error("{0}")]
    Headers(&'static str),
}

/// A frame; a long data frame arrives as several of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A stream begins.
    SynStream {
        /// The stream.
        id: u32,
        /// Its headers.
        headers: Headers,
        /// The sender sends nothing more on it.
        fin: bool,
    },
    /// A stream is accepted.
    SynReply {
        /// The stream.
        id: u32,
        /// Headers of the answer.
        headers: Headers,
        /// The sender sends nothing more on it.
        fin: bool,
    },
    /// A stream ends at once.
    Reset {
        /// The stream.
        id: u32,
        /// Why: 3 is "refused", 5 is "cancel".
        status: u32,
    },
    /// To be sent back.
    Ping(u32),
    /// No new streams.
    GoAway,
    /// Data.
    Data {
        /// The stream.
        id: u32,
        /// The sender sends nothing more on it.
        fin: bool,
        /// The bytes.
        data: Bytes,
    },
    /// A frame that Kubernetes has no use for (SETTINGS, WINDOW_UPDATE, HEADERS, CREDENTIAL).
    Other(u16),
}

/// Turns bytes into frames.
pub(super) struct FrameDecoder {
    headers: Decoder,
    /// The data frame whose bytes are coming in: stream, fin, bytes to come.
    data: Option<(u32, bool, usize)>,
}

impl FrameDecoder {
    pub(super) fn new() -> Self {
        Self {
            headers: Decoder::new(),
            data: None,
        }
    }

    /// Takes the next frame off the buffer; `None` when more bytes are needed.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if let Some((id, fin, left)) = self.data {
            if buffer.is_empty() && left > 0 {
                return Ok(None);
            }
            let take = left.min(buffer.len()).min(MAX_PIECE);
            let last = take == left;
            self.data = (!last).then_some((id, fin, left - take));
            return Ok(Some(Frame::Data {
                id,
                fin: fin && last,
                data: buffer.split_to(take).freeze(),
            }));
        }
        if buffer.len() < 8 {
            return Ok(None);
        }
        let word = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
        let flags = buffer[4];
        let length = u32::from_be_bytes([0, buffer[5], buffer[6], buffer[7]]) as usize;
        if word >> 31 == 0 {
            buffer.advance(8);
            self.data = Some((word, flags & FLAG_FIN != 0, length));
            return self.decode(buffer);
        }
        let (version, kind) = ((word >> 16) as u16 & 0x7fff, word as u16);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length > MAX_CONTROL {
            return Err(FrameError::Length { kind, length });
        }
        if buffer.len() < 8 + length {
            buffer.reserve(8 + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(8);
        let body = buffer.split_to(length).freeze();
        self.control(kind, flags, body).map(Some)
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, FrameError> {
        let length = body.len();
        let mut word = || body.try_get_u32().map_err(|_| FrameError::Length { kind, length });
        let fin = flags & FLAG_FIN != 0;
        Ok(match kind {
            1 => {
                let id = word()? & 0x7fff_ffff;
                word()?;
                let rest = body.get(2..).ok_or(FrameError::Length { kind, length })?;
                Frame::SynStream {
                    id,
                    headers: self.headers.decode(rest)?,
                    fin,
                }
            }
            2 => {
                let id = word()? & 0x7fff_ffff;
                Frame::SynReply {
                    id,
                    headers: self.headers.decode(&body)?,
                    fin,
                }
            }
            3 => Frame::Reset {
                id: word()? & 0x7fff_ffff,
                status: word()?,
            },
            6 => Frame::Ping(word()?),
            7 => Frame::GoAway,
            8 => {
                // Not used, but its block moves the decompressor on.
                word()?;
                self.headers.decode(&body)?;
                Frame::Other(kind)
            }
            _ => Frame::Other(kind),
        })
    }
}

/// Turns frames into bytes.
pub(super) struct FrameEncoder(Encoder);

impl FrameEncoder {
    pub(super) fn new() -> Result<Self, FrameError> {
        Encoder::new().map(Self)
    }

    pub(super) fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), FrameError> {
        match frame {
            Frame::SynStream { id, headers, fin } => {
                let block = self.0.encode(headers)?;
                control(out, 1, *fin, 10 + block.len());
                out.put_u32(*id);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(&block);
            }
            Frame::SynReply { id, headers, fin } => {
                let block = self.0.encode(headers)?;
                control(out, 2, *fin, 4 + block.len());
                out.put_u32(*id);
                out.put_slice(&block);
            }
            Frame::Reset { id, status } => {
                control(out, 3, false, 8);
                out.put_u32(*id);
                out.put_u32(*status);
            }
            Frame::Ping(id) => {
                control(out, 6, false, 4);
                out.put_u32(*id);
            }
            Frame::GoAway => {
                control(out, 7, false, 8);
                out.put_u64(0);
            }
            Frame::Data { id, fin, data } => {
                let mut pieces = data.chunks(MAX_DATA).peekable();
                if pieces.peek().is_none() {
                    data_header(out, *id, *fin, 0);
                }
                while let Some(piece) = pieces.next() {
                    data_header(out, *id, *fin && pieces.peek().is_none(), piece.len());
                    out.put_slice(piece);
                }
            }
            Frame::Other(_) => {}
        }
        Ok(())
    }
}

fn control(out: &mut BytesMut, kind: u16, fin: bool, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(u8::from(fin)) << 24 | length as u32);
}

fn data_header(out: &mut BytesMut, id: u32, fin: bool, length: usize) {
    out.put_u32(id);
    out.put_u32(u32::from(u8::from(fin)) << 24 | length as u32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let id = 1..0x7fff_ffff_u32;
        let headers = proptest::collection::btree_map("[a-z-]{1,12}", "[ -~]{0,40}", 0..5);
        prop_oneof![
            (id.clone(), headers.clone(), any::<bool>()).prop_map(|(id, headers, fin)| Frame::SynStream {
                id,
                headers,
                fin
            }),
            (id.clone(), headers, any::<bool>()).prop_map(|(id, headers, fin)| Frame::SynReply { id, headers, fin }),
            (id.clone(), any::<u32>()).prop_map(|(id, status)| Frame::Reset { id, status }),
            any::<u32>().prop_map(Frame::Ping),
            Just(Frame::GoAway),
            (id, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..100)).prop_map(|(id, fin, data)| {
                Frame::Data {
                    id,
                    fin,
                    data: data.into(),
                }
            }),
        ]
    }

    /// Joins the pieces that a data frame may arrive in.
    fn joined(frames: Vec<Frame>) -> Vec<Frame> {
        let mut whole: Vec<Frame> = Vec::new();
        for frame in frames {
            if let (
                Some(Frame::Data { id, fin, data }),
                Frame::Data {
                    id: next,
                    fin: last,
                    data: more,
                },
            ) = (whole.last_mut(), &frame)
                && id == next
                && !*fin
            {
                *data = [data.as_ref(), more].concat().into();
                *fin = *last;
                continue;
            }
            whole.push(frame);
        }
        whole
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_is_cut(sent in proptest::collection::vec(frames(), 0..12), cut in 1..40_usize) {
            let mut encoder = FrameEncoder::new().unwrap();
            let mut wire = BytesMut::new();
            for frame in &sent {
                encoder.encode(frame, &mut wire).unwrap();
            }
            let (mut decoder, mut buffer, mut received) = (FrameDecoder::new(), BytesMut::new(), Vec::new());
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                    received.push(frame);
                }
            }
            prop_assert_eq!(joined(received), joined(sent));
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (mut decoder, mut buffer) = (FrameDecoder::new(), BytesMut::from(&noise[..]));
            while let Ok(Some(_)) = decoder.decode(&mut buffer) {}
        }
    }
}
