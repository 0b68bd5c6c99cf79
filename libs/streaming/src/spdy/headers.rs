//! Header blocks: names and values with lengths, compressed with zlib over the whole life of a session.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::FrameError;

/// Headers of a stream; names are in lower case.
pub type Headers = BTreeMap<String, String>;

/// The most that a header block may hold once decompressed, in bytes.
const MAX_BLOCK: usize = 64 << 10;

/// Words of the dictionary that both sides start from, each preceded by its length (section 2.6.10.1 of the draft).
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// What follows the words.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::with_capacity(1423);
    for word in WORDS {
        dictionary.put_u32(word.len() as u32);
        dictionary.put_slice(word.as_bytes());
    }
    dictionary.put_slice(TAIL.as_bytes());
    dictionary
});

/// Compresses the header blocks that one side sends.
pub(super) struct Encoder(Compress);

impl Encoder {
    pub(super) fn new() -> Result<Self, FrameError> {
        let mut compress = Compress::new(Compression::fast(), true);
        compress
            .set_dictionary(&DICTIONARY)
            .map_err(|_| FrameError::Headers("dictionary refused"))?;
        Ok(Self(compress))
    }

    pub(super) fn encode(&mut self, headers: &Headers) -> Result<Vec<u8>, FrameError> {
        let mut plain = Vec::new();
        plain.put_u32(headers.len() as u32);
        for (name, value) in headers {
            for text in [name, value] {
                plain.put_u32(text.len() as u32);
                plain.put_slice(text.as_bytes());
            }
        }
        let mut block = Vec::with_capacity(plain.len() + 64);
        let mut rest = &plain[..];
        loop {
            block.reserve(64.max(rest.len()));
            let before = self.0.total_in();
            let status = self.0.compress_vec(rest, &mut block, FlushCompress::Sync);
            status.map_err(|_| FrameError::Headers("compression failed"))?;
            rest = &rest[(self.0.total_in() - before) as usize..];
            // Room left over means that the flush is complete.
            if rest.is_empty() && block.len() < block.capacity() {
                return Ok(block);
            }
        }
    }
}

/// Decompresses the header blocks that the other side sends.
pub(super) struct Decoder(Decompress);

impl Decoder {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(super) fn decode(&mut self, block: &[u8]) -> Result<Headers, FrameError> {
        let plain = self.inflate(block)?;
        parse(plain.freeze())
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<BytesMut, FrameError> {
        let mut plain = Vec::with_capacity(1024);
        loop {
            if plain.len() >= MAX_BLOCK {
                return Err(FrameError::Headers("header block too large"));
            }
            plain.reserve(1024);
            let before = self.0.total_in();
            let outcome = self.0.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            block = &block[(self.0.total_in() - before) as usize..];
            match outcome {
                Ok(Status::Ok | Status::BufError) if block.is_empty() && plain.len() < plain.capacity() => {
                    return Ok(plain.as_slice().into());
                }
                Ok(Status::Ok) => {}
                Ok(_) => return Err(FrameError::Headers("header block damaged")),
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| FrameError::Headers("other dictionary"))?;
                }
                Err(_) => return Err(FrameError::Headers("header block damaged")),
            }
        }
    }
}

fn parse(mut plain: Bytes) -> Result<Headers, FrameError> {
    let short = FrameError::Headers("header block cut short");
    let count = plain.try_get_u32().map_err(|_| short)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut plain)?.to_ascii_lowercase();
        let value = text(&mut plain)?;
        headers.insert(name, value);
    }
    Ok(headers)
}

fn text(plain: &mut Bytes) -> Result<String, FrameError> {
    let short = || FrameError::Headers("header block cut short");
    let length = plain.try_get_u32().map_err(|_| short())? as usize;
    if length > plain.len() {
        return Err(short());
    }
    String::from_utf8(plain.split_to(length).into()).map_err(|_| FrameError::Headers("header is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_drafts() {
        // zlib names a dictionary by its Adler-32; the draft's is e3c6a7c2.
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in DICTIONARY.iter() {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_follow_each_other_through_one_state() {
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new());
        for i in 0..50 {
            let headers = Headers::from([
                ("streamtype".to_owned(), "error".to_owned()),
                ("requestid".to_owned(), "x".repeat(i * 40)),
            ]);
            let block = encoder.encode(&headers).unwrap();
            assert_eq!(decoder.decode(&block).unwrap(), headers);
        }
    }

    #[test]
    fn damage_is_an_error() {
        let headers = Headers::from([("a".to_owned(), "b".to_owned())]);
        let block = Encoder::new().unwrap().encode(&headers).unwrap();
        for cut in 0..block.len() {
            let mut damaged = block.clone();
            damaged[cut] ^= 0x55;
            // Either an error or other headers, never a panic.
            let _ = Decoder::new().decode(&damaged);
            let _ = Decoder::new().decode(&block[..cut]);
        }
        let bomb = Headers::from([("a".to_owned(), "b".repeat(MAX_BLOCK + 1024))]);
        let block = Encoder::new().unwrap().encode(&bomb).unwrap();
        assert!(block.len() < 2048, "it compresses well");
        assert!(Decoder::new().decode(&block).is_err());
    }
}
