//! The store's own binary encoding: transactions in the log, outcomes to a forwarding follower, entries in snapshots and in sled.
//!
//! Numbers are LEB128, strings and bytes have a length before them. Leases and events are the most frequent writes, so an op that touches the key
//! of the first condition does not repeat it. A batch is the transactions one after another; there is no count.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use crate::store::{Condition, Entry, Expect, Op, Txn, TxnOutcome};

/// Bytes that are not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed record")]
pub(in crate::store) struct Malformed;

const ABSENT: u8 = 0;
const EXISTS: u8 = 1;
const REVISION: u8 = 2;

const PUT: u8 = 0;
const PUT_EXPIRING: u8 = 1;
const DELETE: u8 = 2;
/// Flag of an op whose key is that of the first condition.
const SAME_KEY: u8 = 4;

const COMMITTED: u8 = 0;
const CONFLICT: u8 = 1;

pub(super) fn put_number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn number(input: &mut Bytes) -> Result<u64, Malformed> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = byte(input)?;
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(n);
        }
    }
    Err(Malformed)
}

pub(super) fn byte(input: &mut Bytes) -> Result<u8, Malformed> {
    input.try_get_u8().map_err(|_| Malformed)
}

pub(super) fn bytes(input: &mut Bytes) -> Result<Bytes, Malformed> {
    let len = usize::try_from(number(input)?).map_err(|_| Malformed)?;
    if len > input.len() {
        return Err(Malformed);
    }
    Ok(input.split_to(len))
}

pub(super) fn string(input: &mut Bytes) -> Result<String, Malformed> {
    String::from_utf8(bytes(input)?.to_vec()).map_err(|_| Malformed)
}

/// A transaction as it stands in the log.
pub(super) fn encode_txn(txn: &Txn) -> Vec<u8> {
    let mut out = Vec::with_capacity(txn_size_hint(txn));
    put_number(&mut out, txn.conditions.len() as u64);
    for condition in &txn.conditions {
        put_bytes(&mut out, condition.key.as_bytes());
        match condition.expect {
            Expect::Absent => out.push(ABSENT),
            Expect::Exists => out.push(EXISTS),
            Expect::Revision(revision) => {
                out.push(REVISION);
                put_number(&mut out, revision);
            }
        }
    }
    let first_key = txn.conditions.first().map(|c| c.key.as_str());
    put_number(&mut out, txn.ops.len() as u64);
    for op in &txn.ops {
        encode_op(&mut out, op, first_key);
    }
    out
}

fn txn_size_hint(txn: &Txn) -> usize {
    let conditions: usize = txn.conditions.iter().map(|c| c.key.len() + 12).sum();
    let ops: usize = txn
        .ops
        .iter()
        .map(|op| {
            if let Op::Put { value, .. } = op {
                value.len() + 80
            } else {
                80
            }
        })
        .sum();
    conditions + ops + 4
}

fn encode_op(out: &mut Vec<u8>, op: &Op, first_key: Option<&str>) {
    let (tag, key) = match op {
        Op::Put {
            key, expires_at: None, ..
        } => (PUT, key),
        Op::Put { key, .. } => (PUT_EXPIRING, key),
        Op::Delete { key } => (DELETE, key),
    };
    if first_key == Some(key) {
        out.push(tag | SAME_KEY);
    } else {
        out.push(tag);
        put_bytes(out, key.as_bytes());
    }
    if let Op::Put { value, expires_at, .. } = op {
        if let Some(at) = expires_at {
            put_number(out, at.cast_unsigned());
        }
        put_bytes(out, value);
    }
}

/// The transactions of a batch.
pub(super) fn decode_batch(mut input: Bytes) -> Result<Vec<Txn>, Malformed> {
    let mut txns = Vec::new();
    while !input.is_empty() {
        txns.push(decode_txn(&mut input)?);
    }
    Ok(txns)
}

fn decode_txn(input: &mut Bytes) -> Result<Txn, Malformed> {
    let mut txn = Txn::default();
    for _ in 0..number(input)? {
        let key = string(input)?;
        let expect = match byte(input)? {
            ABSENT => Expect::Absent,
            EXISTS => Expect::Exists,
            REVISION => Expect::Revision(number(input)?),
            _ => return Err(Malformed),
        };
        txn.conditions.push(Condition { key, expect });
    }
    for _ in 0..number(input)? {
        let op = decode_op(input, txn.conditions.first().map(|c| c.key.as_str()))?;
        txn.ops.push(op);
    }
    Ok(txn)
}

fn decode_op(input: &mut Bytes, first_key: Option<&str>) -> Result<Op, Malformed> {
    let tag = byte(input)?;
    let key = if tag & SAME_KEY != 0 {
        first_key.ok_or(Malformed)?.to_owned()
    } else {
        string(input)?
    };
    match tag & !SAME_KEY {
        PUT => Ok(Op::Put {
            key,
            expires_at: None,
            value: bytes(input)?,
        }),
        PUT_EXPIRING => {
            let expires_at = Some(number(input)?.cast_signed());
            Ok(Op::Put {
                key,
                expires_at,
                value: bytes(input)?,
            })
        }
        DELETE => Ok(Op::Delete { key }),
        _ => Err(Malformed),
    }
}

/// An entry with its key.
pub(super) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    put_bytes(out, entry.key.as_bytes());
    put_entry_body(out, entry);
}

/// An entry without its key.
pub(super) fn put_entry_body(out: &mut Vec<u8>, entry: &Entry) {
    put_number(out, entry.create_revision);
    put_number(out, entry.revision);
    // Shifted by one so that "never" is the one byte 0.
    put_number(out, entry.expires_at.map_or(0, |at| at.cast_unsigned().wrapping_add(1)));
    put_bytes(out, &entry.value);
}

pub(super) fn entry(input: &mut Bytes) -> Result<Entry, Malformed> {
    let key = string(input)?;
    entry_body(key.into(), input)
}

/// The value is copied out of the input, which is much larger than what lives on.
pub(super) fn entry_body(key: Arc<str>, input: &mut Bytes) -> Result<Entry, Malformed> {
    let create_revision = number(input)?;
    let revision = number(input)?;
    let expires_at = match number(input)? {
        0 => None,
        at => Some(at.wrapping_sub(1).cast_signed()),
    };
    let value = Bytes::from(Box::<[u8]>::from(&bytes(input)?[..]));
    Ok(Entry::new(key, create_revision, revision, value, expires_at))
}

fn put_optional_entry(out: &mut Vec<u8>, entry: Option<&Entry>) {
    out.push(u8::from(entry.is_some()));
    if let Some(entry) = entry {
        put_entry(out, entry);
    }
}

fn optional_entry(input: &mut Bytes) -> Result<Option<Arc<Entry>>, Malformed> {
    match byte(input)? {
        0 => Ok(None),
        1 => Ok(Some(Arc::new(entry(input)?))),
        _ => Err(Malformed),
    }
}

/// What became of forwarded transactions.
pub(super) fn encode_outcomes(outcomes: &[TxnOutcome]) -> Vec<u8> {
    let mut out = Vec::new();
    for outcome in outcomes {
        match outcome {
            TxnOutcome::Committed { revision, entries } => {
                out.push(COMMITTED);
                put_number(&mut out, *revision);
                put_number(&mut out, entries.len() as u64);
                entries.iter().for_each(|e| put_optional_entry(&mut out, e.as_deref()));
            }
            TxnOutcome::Conflict { condition, current } => {
                out.push(CONFLICT);
                put_number(&mut out, *condition as u64);
                put_optional_entry(&mut out, current.as_deref());
            }
        }
    }
    out
}

pub(super) fn decode_outcomes(mut input: Bytes) -> Result<Vec<TxnOutcome>, Malformed> {
    let mut outcomes = Vec::new();
    while !input.is_empty() {
        outcomes.push(match byte(&mut input)? {
            COMMITTED => {
                let revision = number(&mut input)?;
                let count = number(&mut input)?;
                let entries = (0..count)
                    .map(|_| optional_entry(&mut input))
                    .collect::<Result<_, _>>()?;
                TxnOutcome::Committed { revision, entries }
            }
            CONFLICT => {
                let condition = usize::try_from(number(&mut input)?).map_err(|_| Malformed)?;
                TxnOutcome::Conflict {
                    condition,
                    current: optional_entry(&mut input)?,
                }
            }
            _ => return Err(Malformed),
        });
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn txn() -> impl Strategy<Value = Txn> {
        let key = || "[a-c]{1,3}";
        let expect = prop_oneof![
            Just(Expect::Absent),
            Just(Expect::Exists),
            any::<u64>().prop_map(Expect::Revision)
        ];
        let condition = (key(), expect).prop_map(|(key, expect)| Condition { key, expect });
        let value = proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        let put = (key(), value, any::<Option<i64>>());
        let op = prop_oneof![
            put.prop_map(|(key, value, expires_at)| Op::Put { key, value, expires_at }),
            key().prop_map(|key| Op::Delete { key }),
        ];
        (
            proptest::collection::vec(condition, 0..3),
            proptest::collection::vec(op, 0..4),
        )
            .prop_map(|(conditions, ops)| Txn { conditions, ops })
    }

    proptest! {
        #[test]
        fn a_batch_comes_back_as_it_went(txns in proptest::collection::vec(txn(), 0..5)) {
            let encoded: Vec<u8> = txns.iter().flat_map(encode_txn).collect();
            prop_assert_eq!(decode_batch(encoded.into()).unwrap(), txns);
        }

        #[test]
        fn any_bytes_are_refused_or_decoded(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_batch(input.clone().into());
            let _ = decode_outcomes(input.into());
        }
    }
}
