//! From a packet to a packet: what is answered here, what goes on to a resolver, what is malformed.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record};
use rand::seq::SliceRandom;

use super::zone::{Answer, Directory, Zone};

/// What fits into one UDP packet on every path.
const SAFE_PAYLOAD: u16 = 1232;
const MAX_PAYLOAD: u16 = 4096;
/// Aliases that lead to aliases.
const MAX_ALIASES: usize = 8;

/// How the request came in, which bounds the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Answers may be cut; the client comes back over TCP.
    Udp,
    /// Answers are as long as they are.
    Tcp,
}

/// What to do with a request.
#[derive(Debug)]
pub enum Outcome {
    /// Send this.
    Reply(Vec<u8>),
    /// Send the request as it is to a resolver.
    Forward,
    /// Ask a resolver about `target`, then send what [`Alias::finish`] makes of its answer.
    Resolve(Box<Alias>),
    /// No request at all: an answer to it could be made to loop.
    Ignore,
}

/// An answer that ends in a name which others know.
#[derive(Debug)]
pub struct Alias {
    reply: Message,
    limit: usize,
    /// The question that remains.
    pub target: Query,
}

/// Decides about one request. Never panics, whatever is in it.
pub fn respond(packet: &[u8], transport: Transport, zone: &Zone, directory: &dyn Directory) -> Outcome {
    // A response must not be answered, however malformed the rest is.
    if packet.len() < 12 || packet[2] & 0x80 != 0 {
        return Outcome::Ignore;
    }
    let Ok(request) = Message::from_vec(packet) else {
        let id = u16::from_be_bytes([packet[0], packet[1]]);
        return reply(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr), 512);
    };
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.queries.clone_from(&request.queries);
    let limit = match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => usize::from(
            request
                .edns
                .as_ref()
                .map_or(512, |e| e.max_payload().clamp(512, MAX_PAYLOAD)),
        ),
    };
    if let Some(edns) = &request.edns {
        let mut own = Edns::new();
        own.set_max_payload(SAFE_PAYLOAD).set_version(0);
        if edns.version() > 0 {
            // BADVERS is 16: one in the upper bits, nothing in the lower.
            own.set_rcode_high(1);
            response.edns = Some(own);
            return reply(response, limit);
        }
        response.edns = Some(own);
    }
    let refusal = match (
        request.metadata.message_type,
        request.metadata.op_code,
        request.queries.len(),
    ) {
        (MessageType::Query, OpCode::Query, 1) => None,
        (MessageType::Query, OpCode::Query, _) => Some(ResponseCode::FormErr),
        _ => Some(ResponseCode::NotImp),
    };
    if let Some(code) = refusal {
        response.metadata.response_code = code;
        return reply(response, limit);
    }
    answer(response, limit, zone, directory)
}

fn answer(mut response: Message, limit: usize, zone: &Zone, directory: &dyn Directory) -> Outcome {
    let Some(mut question) = response.queries.first().cloned() else {
        return Outcome::Ignore;
    };
    if question.query_class() != DNSClass::IN {
        return Outcome::Forward;
    }
    response.metadata.authoritative = true;
    for aliases in 0..=MAX_ALIASES {
        match zone.answer(directory, question.name(), question.query_type()) {
            Answer::Foreign if aliases == 0 => return Outcome::Forward,
            Answer::Foreign => {
                return Outcome::Resolve(Box::new(Alias {
                    reply: response,
                    limit,
                    target: question,
                }));
            }
            Answer::Records { answers, additionals } => {
                if answers.is_empty() {
                    response.add_authority(zone.soa());
                }
                response.add_answers(shuffled(answers)).add_additionals(additionals);
                return reply(response, limit);
            }
            Answer::NameError => {
                // An alias to nothing is still an alias.
                response.metadata.response_code = ResponseCode::NXDomain;
                response.add_authority(zone.soa());
                return reply(response, limit);
            }
            Answer::Alias { record, target } => {
                response.add_answer(*record);
                if question.query_type() == hickory_proto::rr::RecordType::CNAME {
                    return reply(response, limit);
                }
                question.set_name(target);
            }
        }
    }
    response.metadata.response_code = ResponseCode::ServFail;
    reply(response, limit)
}

/// Clients take the first address; in turn each is the first.
fn shuffled(mut records: Vec<Record>) -> Vec<Record> {
    records.shuffle(&mut rand::rng());
    records
}

impl Alias {
    /// The question that remains, as a packet for a resolver.
    pub fn query(&self, id: u16) -> Option<Vec<u8>> {
        let mut query = Message::new(id, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(self.target.clone());
        query.to_vec().ok()
    }

    /// The whole answer, given the resolver's; None if there was none.
    pub fn finish(mut self, answer: Option<&[u8]>) -> Outcome {
        match answer.and_then(|packet| Message::from_vec(packet).ok()) {
            Some(found) => {
                self.reply.metadata.response_code = found.metadata.response_code;
                self.reply.metadata.truncation = found.metadata.truncation;
                self.reply.add_answers(found.answers).add_authorities(found.authorities);
            }
            None => self.reply.metadata.response_code = ResponseCode::ServFail,
        }
        self.reply.metadata.authoritative = false;
        reply(self.reply, self.limit)
    }
}

/// What a client hears when no resolver answers.
pub(super) fn failure(packet: &[u8]) -> Outcome {
    let Ok(request) = Message::from_vec(packet) else {
        return Outcome::Ignore;
    };
    let mut response = Message::error_msg(request.metadata.id, request.metadata.op_code, ResponseCode::ServFail);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.queries = request.queries;
    reply(response, 512)
}

fn reply(message: Message, limit: usize) -> Outcome {
    match message.to_vec() {
        Ok(packet) if packet.len() <= limit => Outcome::Reply(packet),
        // Additional records are a courtesy; without them it may fit.
        Ok(_) if !message.additionals.is_empty() => {
            let mut shorter = message;
            shorter.additionals.clear();
            reply(shorter, limit)
        }
        Ok(_) => message.truncate().to_vec().map_or(Outcome::Ignore, Outcome::Reply),
        Err(error) => {
            tracing::debug!(%error, "cannot encode a DNS answer");
            Outcome::Ignore
        }
    }
}
