//! Removes what connection tracking remembers of UDP endpoints that are gone.
//!
//! A UDP "connection" lives as long as packets come: a client that keeps asking from one port would be sent to a dead endpoint for ever,
//! or past a new one that the service has got since. TCP needs no such help: the client sees its connection die.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_netfilter::conntrack::Protocol as TrackedProtocol;
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Tuple};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::{Socket, protocols::NETLINK_NETFILTER};

use crate::rules::{Frontend, Protocol, RuleSet};

/// For every UDP frontend, the endpoints that its flows may go to.
pub type Expected = BTreeMap<SocketAddr, BTreeSet<SocketAddr>>;

/// What the rules lead to, UDP only.
pub fn expected(rules: &RuleSet) -> Expected {
    let udp =
        |frontend: &Frontend| (frontend.protocol == Protocol::Udp).then(|| SocketAddr::new(frontend.ip, frontend.port));
    let mut expected = Expected::new();
    for frontend in rules.refused.keys().chain(rules.services.keys()).filter_map(udp) {
        expected.entry(frontend).or_default();
    }
    let plain = rules.endpoints.iter().map(|(slot, endpoint)| (slot.frontend, endpoint));
    let sticky = rules
        .sticky_endpoints
        .iter()
        .map(|(key, endpoint)| (key.frontend, endpoint));
    for (frontend, endpoint) in plain.chain(sticky) {
        if let Some(frontend) = udp(&frontend) {
            expected.entry(frontend).or_default().insert(*endpoint);
        }
    }
    expected
}

/// The flows to look at after a change from `old` to `new`: those of frontends whose endpoints differ. A frontend that is gone has none.
pub fn changed(old: &Expected, new: &Expected) -> Expected {
    let differs = |(frontend, endpoints): &(&SocketAddr, &BTreeSet<SocketAddr>)| old.get(*frontend) != Some(*endpoints);
    let mut changed: Expected = new.iter().filter(differs).map(|(f, e)| (*f, e.clone())).collect();
    changed.extend(
        old.keys()
            .filter(|f| !new.contains_key(*f))
            .map(|f| (*f, BTreeSet::new())),
    );
    changed
}

/// One tracked UDP flow.
#[derive(Debug)]
struct Flow {
    /// Where the client sends.
    destination: SocketAddr,
    /// Who answers.
    answers: SocketAddr,
    /// Identifies the flow to the kernel.
    tuple: Vec<Tuple>,
}

/// Removes the flows to frontends in `expected` that go elsewhere than expected; blocks. Returns how many there were.
pub fn clean(expected: &Expected) -> io::Result<usize> {
    if expected.is_empty() {
        return Ok(0);
    }
    let mut removed = 0;
    for (family, ipv6) in [(NetfilterProtoFamily::IPv4, false), (NetfilterProtoFamily::IPv6, true)] {
        if !expected.keys().any(|frontend| frontend.is_ipv6() == ipv6) {
            continue;
        }
        let socket = Socket::new(NETLINK_NETFILTER)?;
        let stale: Vec<Flow> = dump(&socket, family)?
            .into_iter()
            .filter(|flow| {
                expected
                    .get(&flow.destination)
                    .is_some_and(|allowed| !allowed.contains(&flow.answers))
            })
            .collect();
        for flow in stale {
            removed += usize::from(delete(&socket, family, flow.tuple)?);
        }
    }
    Ok(removed)
}

fn send(socket: &Socket, family: NetfilterProtoFamily, flags: u16, message: ConntrackMessage) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let payload = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message);
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(payload));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0).map(|_| ())
}

/// Calls `each` with the payloads of the answer until it says that it has all.
fn receive(
    socket: &Socket,
    mut each: impl FnMut(NetlinkPayload<NetfilterMessage>) -> io::Result<bool>,
) -> io::Result<()> {
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(io::Error::other)?;
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            if each(message.payload)? {
                return Ok(());
            }
        }
    }
}

fn dump(socket: &Socket, family: NetfilterProtoFamily) -> io::Result<Vec<Flow>> {
    send(socket, family, NLM_F_DUMP, ConntrackMessage::Get(Vec::new()))?;
    let mut flows = Vec::new();
    receive(socket, |payload| match payload {
        NetlinkPayload::Done(_) => Ok(true),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        NetlinkPayload::InnerMessage(NetfilterMessage {
            inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
            ..
        }) => {
            flows.extend(udp_flow(attributes));
            Ok(false)
        }
        _ => Ok(false),
    })?;
    Ok(flows)
}

/// False if the flow ended by itself in the meantime.
fn delete(socket: &Socket, family: NetfilterProtoFamily, tuple: Vec<Tuple>) -> io::Result<bool> {
    send(
        socket,
        family,
        NLM_F_ACK,
        ConntrackMessage::Delete(vec![ConntrackAttribute::CtaTupleOrig(tuple)]),
    )?;
    let mut existed = true;
    receive(socket, |payload| match payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(true),
        NetlinkPayload::Error(error) if error.to_io().raw_os_error() == Some(libc::ENOENT) => {
            existed = false;
            Ok(true)
        }
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Ok(false),
    })?;
    Ok(existed)
}

fn udp_flow(attributes: Vec<ConntrackAttribute>) -> Option<Flow> {
    let (mut original, mut reply) = (None, None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => original = Some(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => reply = Some(tuple),
            _ => (),
        }
    }
    let (original, reply) = (original?, reply?);
    let is_udp = |p: &ProtoTuple| matches!(p, ProtoTuple::Protocol(TrackedProtocol::Udp));
    if !protos(&original).any(is_udp) {
        return None;
    }
    let ip = |tuple: &[Tuple], pick: fn(&IPTuple) -> Option<IpAddr>| {
        tuple.iter().find_map(|t| match t {
            Tuple::Ip(parts) => parts.iter().find_map(pick),
            _ => None,
        })
    };
    let destination = ip(&original, |t| match t {
        IPTuple::DestinationAddress(ip) => Some(*ip),
        _ => None,
    })?;
    let answers = ip(&reply, |t| match t {
        IPTuple::SourceAddress(ip) => Some(*ip),
        _ => None,
    })?;
    let destination_port = protos(&original).find_map(|p| match p {
        ProtoTuple::DestinationPort(port) => Some(*port),
        _ => None,
    })?;
    let answering_port = protos(&reply).find_map(|p| match p {
        ProtoTuple::SourcePort(port) => Some(*port),
        _ => None,
    })?;
    Some(Flow {
        destination: SocketAddr::new(destination, destination_port),
        answers: SocketAddr::new(answers, answering_port),
        tuple: original,
    })
}

fn protos(tuple: &[Tuple]) -> impl Iterator<Item = &ProtoTuple> {
    tuple.iter().flat_map(|t| match t {
        Tuple::Proto(parts) => parts.as_slice(),
        _ => &[],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(pairs: &[(&str, &[&str])]) -> Expected {
        let address = |text: &&str| text.parse().unwrap();
        pairs
            .iter()
            .map(|(frontend, endpoints)| (address(frontend), endpoints.iter().map(address).collect()))
            .collect()
    }

    #[test]
    fn only_frontends_that_changed_are_looked_at() {
        let old = expect(&[
            ("10.96.0.1:53", &["10.244.1.2:53"]),
            ("10.96.0.2:53", &["10.244.1.3:53"]),
            ("10.96.0.3:53", &[]),
        ]);
        let new = expect(&[
            ("10.96.0.1:53", &["10.244.1.2:53"]),
            ("10.96.0.2:53", &["10.244.1.4:53"]),
        ]);
        assert_eq!(
            changed(&old, &new),
            expect(&[("10.96.0.2:53", &["10.244.1.4:53"]), ("10.96.0.3:53", &[])])
        );
        assert!(changed(&new, &new).is_empty());
    }
}
