//! IP addresses and networks in fields: what upstream's older parser accepts (leading zeros among it), what it calls canonical, and what it
//! warns of. Source: `apimachinery/pkg/util/validation/ip.go`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::field::{Errors, Field};

const NO_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NO_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Reads an address; zeros may lead a part of an IPv4 address.
pub fn parse(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| sloppy(text).map(IpAddr::V4))
}

fn sloppy(text: &str) -> Option<Ipv4Addr> {
    let mut parts = text.split('.').map(|part| {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        part.trim_start_matches('0')
            .parse::<u8>()
            .or_else(|error| {
                if part.contains('0') && part.bytes().all(|b| b == b'0') {
                    Ok(0)
                } else {
                    Err(error)
                }
            })
            .ok()
            .filter(|_| digits)
    });
    let mut next = || parts.next().flatten();
    let address = Ipv4Addr::new(next()?, next()?, next()?, next()?);
    parts.next().is_none().then_some(address)
}

/// An address and the length of its prefix.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address = parse(address)?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let plain = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    let length = length.parse::<u8>().ok().filter(|n| plain && *n <= most)?;
    Some((address, length))
}

/// The first address of a network.
pub fn network(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Ipv4Addr::from_bits(a.to_bits() & mask).into()
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Ipv6Addr::from_bits(a.to_bits() & mask).into()
        }
    }
}

/// Reports text that is no address.
pub fn ip(field: &Field<'_>, errors: &mut Errors) {
    if parse(field.str()).is_none() {
        field.invalid_as(errors, field.str(), NO_IP);
    }
}

/// Reports text that is no network.
pub fn cidr(field: &Field<'_>, errors: &mut Errors) {
    if parse_cidr(field.str()).is_none() {
        field.invalid_as(errors, field.str(), NO_CIDR);
    }
}

/// Reports an address that is not written the one way it should be.
pub fn canonical_ip(field: &Field<'_>, errors: &mut Errors) {
    match parse(field.str()) {
        None => field.invalid_as(errors, field.str(), NO_IP),
        Some(ip) if ip.to_string() != field.str() => field.invalid_as(
            errors,
            field.str(),
            format!("must be in canonical form ({:?})", ip.to_string()),
        ),
        Some(_) => {}
    }
}

/// Reports a network that is not written the one way it should be.
pub fn canonical_cidr(field: &Field<'_>, errors: &mut Errors) {
    let Some((address, length)) = parse_cidr(field.str()) else {
        return field.invalid_as(errors, field.str(), NO_CIDR);
    };
    let canonical = format!("{}/{length}", network(address, length));
    if canonical != field.str() {
        field.invalid_as(
            errors,
            field.str(),
            format!("must be in canonical form ({canonical:?})"),
        );
    }
}

/// Reports addresses that no endpoint outside of a node can have.
pub fn not_special(field: &Field<'_>, errors: &mut Errors) {
    let text = field.str();
    let Some(address) = parse(text) else {
        return field.invalid_as(errors, text, "must be a valid IP address");
    };
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(a) => (a.is_link_local(), a.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(a) => (a.is_unicast_link_local(), a.segments()[0] & 0xff0f == 0xff02),
    };
    if address.is_unspecified() {
        field.invalid_as(errors, text, format!("may not be unspecified ({text})"));
    }
    if address.is_loopback() {
        field.invalid_as(errors, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        field.invalid_as(
            errors,
            text,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        );
    }
    if link_local_multicast {
        field.invalid_as(
            errors,
            text,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        );
    }
}

/// Warns of an address that is not written the one way it should be.
pub fn warn_ip(field: &Field<'_>, warnings: &mut Vec<String>) {
    let text = field.str();
    let Some(address) = parse(text) else { return };
    let strict = text.parse::<IpAddr>().ok();
    let mapped = match address {
        IpAddr::V6(a) => a.to_ipv4_mapped(),
        IpAddr::V4(_) => None,
    };
    if strict.is_none() || mapped.is_some() {
        let better = mapped.map_or(address, IpAddr::V4);
        warnings.push(format!(
            "{field}: non-standard IP address {text:?} will be considered invalid in a future Kubernetes release: use \"{better}\""
        ));
    } else if address.is_ipv6() && address.to_string() != text {
        warnings.push(format!(
            "{field}: IPv6 address {text:?} should be in RFC 5952 canonical format (\"{address}\")"
        ));
    }
}

/// Warns of a network that is not written the one way it should be.
pub fn warn_cidr(field: &Field<'_>, warnings: &mut Vec<String>) {
    let text = field.str();
    let Some((address, length)) = parse_cidr(text) else {
        return;
    };
    let first = network(address, length);
    let before = warnings.len();
    if first != address {
        let most = if address.is_ipv4() { 32 } else { 128 };
        warnings.push(format!(
            "{field}: CIDR value {text:?} is ambiguous in this context (should be \"{first}/{length}\" or \"{address}/{most}\"?)"
        ));
    }
    let strict = api::names::cidr(text).is_empty();
    if !strict {
        warnings.push(format!(
            "{field}: non-standard CIDR value {text:?} will be considered invalid in a future Kubernetes release: use \"{first}/{length}\""
        ));
    }
    if warnings.len() == before && address.is_ipv6() && format!("{address}/{length}") != text {
        warnings.push(format!(
            "{field}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format (\"{address}/{length}\")"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses() {
        for (text, fine) in [
            ("10.0.0.1", true),
            ("010.000.0.1", true),
            ("::1", true),
            ("10.0.0", false),
            ("10.0.0.256", false),
            ("10.0.0.1.1", false),
            ("", false),
            ("1.2.3.a", false),
        ] {
            assert_eq!(parse(text).is_some(), fine, "{text}");
        }
        assert!(
            parse_cidr("10.0.0.0/8").is_some()
                && parse_cidr("10.0.0.0/33").is_none()
                && parse_cidr("10.0.0.0").is_none()
        );
    }

    #[test]
    fn warnings() {
        let said = |text: &str| {
            let value = json!(text);
            let field = Field::root("f", &value);
            let mut warnings = Vec::new();
            if text.contains('/') {
                warn_cidr(&field, &mut warnings)
            } else {
                warn_ip(&field, &mut warnings)
            }
            warnings
        };
        assert_eq!(said("10.0.0.1"), Vec::<String>::new());
        assert_eq!(
            said("010.0.0.1"),
            [
                "f: non-standard IP address \"010.0.0.1\" will be considered invalid in a future Kubernetes release: use \"10.0.0.1\""
            ]
        );
        assert_eq!(
            said("2001:DB8::1"),
            ["f: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")"]
        );
        assert_eq!(
            said("10.0.0.1/8"),
            [
                "f: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)"
            ]
        );
    }
}
