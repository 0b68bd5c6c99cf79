//! IP addresses and networks: strict forms, no zones, no IPv4 in IPv6.

use std::net::IpAddr;

use super::{Cost, Function, ONE, f, no_overload};
use crate::error::Error;
use crate::fuel::Fuel;
use crate::value::{Opaque, Value};

type Result<'a> = std::result::Result<Value<'a>, Error>;

pub(super) const FUNCTIONS: &[Function] = &[
    f("ip", ip, Cost::Scan, "(string)IP|CIDR.()IP"),
    f(
        "isIP",
        |a, _| is(a, |text| parse_ip(text).is_ok()),
        Cost::Scan,
        "(string)bool",
    ),
    f("ip.isCanonical", canonical, Cost::Rewrite, "(string)bool"),
    f(
        "family",
        |a, _| address(a, |ip| Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        ONE,
        "IP.()int",
    ),
    f(
        "isUnspecified",
        |a, _| address(a, |ip| Value::Bool(ip.is_unspecified())),
        ONE,
        "IP.()bool",
    ),
    f(
        "isLoopback",
        |a, _| address(a, |ip| Value::Bool(ip.is_loopback())),
        ONE,
        "IP.()bool",
    ),
    f(
        "isLinkLocalMulticast",
        |a, _| address(a, |ip| Value::Bool(link_local_multicast(ip))),
        ONE,
        "IP.()bool",
    ),
    f(
        "isLinkLocalUnicast",
        |a, _| address(a, |ip| Value::Bool(link_local_unicast(ip))),
        ONE,
        "IP.()bool",
    ),
    f(
        "isGlobalUnicast",
        |a, _| address(a, |ip| Value::Bool(global_unicast(ip))),
        ONE,
        "IP.()bool",
    ),
    f("cidr", cidr, Cost::Scan, "(string)CIDR"),
    f(
        "isCIDR",
        |a, _| is(a, |text| parse_cidr(text).is_ok()),
        Cost::Scan,
        "(string)bool",
    ),
    f(
        "containsIP",
        contains_ip,
        Cost::Address(2, 0),
        "CIDR.(IP)bool|CIDR.(string)bool",
    ),
    f(
        "containsCIDR",
        contains_cidr,
        Cost::Address(3, 1),
        "CIDR.(CIDR)bool|CIDR.(string)bool",
    ),
    f("masked", masked, ONE, "CIDR.()CIDR"),
    f(
        "prefixLength",
        |a, _| network(a).map(|(_, n)| Value::Int(i64::from(n))),
        ONE,
        "CIDR.()int",
    ),
];

fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

fn parse_ip(text: &str) -> std::result::Result<IpAddr, Error> {
    let fail = |why: &str| {
        Error::value(format!(
            "IP Address {:?} parse error during conversion from string: {why}",
            shown(text)
        ))
    };
    let ip: IpAddr = text
        .parse()
        .map_err(|_| fail(&format!("ParseAddr({:?}): unable to parse IP", shown(text))))?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(Error::value("IPv4-mapped IPv6 address is not allowed")),
        ip => Ok(ip),
    }
}

fn parse_cidr(text: &str) -> std::result::Result<(IpAddr, u8), Error> {
    let fail = |why: &str| {
        Error::value(format!(
            "network address parse error during conversion from string: netip.ParsePrefix({:?}): {why}",
            shown(text)
        ))
    };
    let (ip, prefix) = text.split_once('/').ok_or_else(|| fail("no '/'"))?;
    let ip = match ip.parse() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            return Err(Error::value("IPv4-mapped IPv6 address is not allowed"));
        }
        Ok(ip) => ip,
        Err(_) => return Err(fail(&format!("ParseAddr({:?}): unable to parse IP", shown(ip)))),
    };
    let proper =
        prefix.len() <= 3 && prefix.bytes().all(|b| b.is_ascii_digit()) && (prefix == "0" || !prefix.starts_with('0'));
    let length: u8 = if proper { prefix.parse().ok() } else { None }
        .ok_or_else(|| fail(&format!("bad bits after slash: {:?}", shown(prefix))))?;
    if length > width(&ip) {
        return Err(fail("prefix length out of range"));
    }
    Ok((ip, length))
}

fn width(ip: &IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn bits(ip: &IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

fn inside(network: (IpAddr, u8), ip: &IpAddr) -> bool {
    network.0.is_ipv4() == ip.is_ipv4() && (bits(&network.0) ^ bits(ip)) & mask(network.1) == 0
}

fn address<'a>(args: &[Value<'a>], get: fn(&IpAddr) -> Value<'a>) -> Result<'a> {
    if let [Value::Opaque(opaque)] = args
        && let Opaque::Ip(ip) = &**opaque
    {
        return Ok(get(ip));
    }
    Err(Error::no_such_overload())
}

fn network(args: &[Value<'_>]) -> std::result::Result<(IpAddr, u8), Error> {
    if let Some(Value::Opaque(opaque)) = args.first()
        && let Opaque::Cidr(ip, length) = &**opaque
    {
        return Ok((*ip, *length));
    }
    Err(Error::no_such_overload())
}

fn is<'a>(args: &[Value<'a>], holds: fn(&str) -> bool) -> Result<'a> {
    match args {
        [Value::String(text)] => Ok(Value::Bool(holds(text))),
        _ => Err(Error::no_such_overload()),
    }
}

fn ip<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    let ip = match args {
        [Value::String(text)] => parse_ip(text)?,
        _ => network(args)?.0,
    };
    Ok(Value::Opaque(Opaque::Ip(ip).into()))
}

fn canonical<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::String(text)] => Ok(Value::Bool(parse_ip(text)?.to_string() == **text)),
        _ => Err(no_overload("ip.isCanonical", args)),
    }
}

fn cidr<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::String(text)] => {
            let (ip, length) = parse_cidr(text)?;
            Ok(Value::Opaque(Opaque::Cidr(ip, length).into()))
        }
        _ => Err(no_overload("cidr", args)),
    }
}

fn contains_ip<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    let outer = network(args)?;
    let ip = match args.get(1) {
        Some(Value::String(text)) => parse_ip(text)?,
        Some(Value::Opaque(opaque)) => match &**opaque {
            Opaque::Ip(ip) => *ip,
            _ => return Err(Error::no_such_overload()),
        },
        _ => return Err(Error::no_such_overload()),
    };
    Ok(Value::Bool(inside(outer, &ip)))
}

fn contains_cidr<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    let outer = network(args)?;
    let inner = match args.get(1) {
        Some(Value::String(text)) => parse_cidr(text)?,
        other => network(&other.cloned().into_iter().collect::<Vec<_>>())?,
    };
    Ok(Value::Bool(outer.1 <= inner.1 && inside(outer, &inner.0)))
}

fn masked<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    let (ip, length) = network(args)?;
    let kept = bits(&ip) & mask(length);
    let ip = match ip {
        IpAddr::V4(_) => IpAddr::V4(u32::try_from(kept >> 96).unwrap_or(0).into()),
        IpAddr::V6(_) => IpAddr::V6(kept.into()),
    };
    Ok(Value::Opaque(Opaque::Cidr(ip, length).into()))
}

fn link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local_unicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn global_unicast(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !broadcast && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !link_local_unicast(ip)
}
