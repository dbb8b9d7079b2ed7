//! The wanted network, parsed and checked before anything is changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{Error, Result};
use crate::proto::{ConfigureNetworkRequest, Interface, Neighbour, Route};

/// Interfaces, addresses, routes and neighbours that one request may have, each.
const LIMIT: usize = 1024;
/// IFNAMSIZ without its NUL.
const NAME_LIMIT: usize = 15;

/// An address with its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address; for a route the network.
    pub address: IpAddr,
    /// At most 32 or 128.
    pub prefix: u8,
}

/// A link with what it is to have.
#[derive(Debug, PartialEq, Eq)]
pub struct LinkPlan {
    /// Finds the link.
    pub mac: [u8; 6],
    /// Its address afterwards; finds it too. `None` leaves it.
    pub new_mac: Option<[u8; 6]>,
    /// Its name afterwards.
    pub name: String,
    /// `None` leaves it.
    pub mtu: Option<u32>,
    /// All of its global addresses.
    pub addresses: Vec<Cidr>,
}

/// A route's scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Beyond a gateway, or unknown.
    Global,
    /// On the link.
    Link,
    /// This machine.
    Host,
}

/// A route.
#[derive(Debug, PartialEq, Eq)]
pub struct RoutePlan {
    /// Where to; prefix 0 for the default route.
    pub destination: Cidr,
    /// Through whom.
    pub gateway: Option<IpAddr>,
    /// Name of the link.
    pub interface: String,
    /// Preferred source.
    pub source: Option<IpAddr>,
    /// `None`: the kernel's default.
    pub metric: Option<u32>,
    /// Scope.
    pub scope: Scope,
    /// The gateway is reachable although no route says so.
    pub on_link: bool,
}

/// A permanent neighbour.
#[derive(Debug, PartialEq, Eq)]
pub struct NeighbourPlan {
    /// Who.
    pub address: IpAddr,
    /// Where on the link.
    pub mac: [u8; 6],
    /// Name of the link.
    pub interface: String,
}

/// Everything.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Links first.
    pub links: Vec<LinkPlan>,
    /// On-link routes before those through a gateway.
    pub routes: Vec<RoutePlan>,
    /// Last.
    pub neighbours: Vec<NeighbourPlan>,
}

impl Plan {
    /// Parses a request.
    pub fn new(request: &ConfigureNetworkRequest) -> Result<Self> {
        let addresses = request
            .interfaces
            .iter()
            .map(|interface| interface.addresses.len())
            .sum();
        for (what, count) in [
            ("interfaces", request.interfaces.len()),
            ("addresses", addresses),
            ("routes", request.routes.len()),
            ("neighbours", request.neighbours.len()),
        ] {
            if count > LIMIT {
                return Err(Error::ResourceExhausted(format!(
                    "Cannot configure {count} {what}: the limit is {LIMIT}"
                )));
            }
        }
        let mut routes = request.routes.iter().map(plan_route).collect::<Result<Vec<_>>>()?;
        // A gateway is accepted only when a route to it exists.
        routes.sort_by_key(|route| route.gateway.is_some());
        Ok(Self {
            links: request.interfaces.iter().map(plan_link).collect::<Result<_>>()?,
            routes,
            neighbours: request.neighbours.iter().map(plan_neighbour).collect::<Result<_>>()?,
        })
    }
}

fn plan_link(interface: &Interface) -> Result<LinkPlan> {
    Ok(LinkPlan {
        mac: parse_mac(&interface.mac_address)?,
        new_mac: match interface.new_mac_address.as_str() {
            "" => None,
            text => Some(parse_mac(text)?),
        },
        name: check_name(&interface.name)?,
        mtu: (interface.mtu != 0).then_some(interface.mtu),
        addresses: interface
            .addresses
            .iter()
            .map(|text| parse_cidr(text))
            .collect::<Result<_>>()?,
    })
}

fn plan_route(route: &Route) -> Result<RoutePlan> {
    let gateway = parse_optional_ip(&route.gateway)?;
    let destination = match route.destination.as_str() {
        "" | "default" => default_destination(gateway, &route.family)?,
        text => parse_cidr(text)?,
    };
    let family = matches!(destination.address, IpAddr::V6(_));
    let scope = match route.scope.as_str() {
        "" if gateway.is_none() && !family => Scope::Link,
        "" | "global" => Scope::Global,
        "link" => Scope::Link,
        "host" => Scope::Host,
        other => return Err(wrong("route scope", other)),
    };
    Ok(RoutePlan {
        destination,
        gateway,
        interface: check_name(&route.interface_name)?,
        source: parse_optional_ip(&route.source)?,
        metric: (route.metric != 0).then_some(route.metric),
        scope,
        on_link: route.on_link,
    })
}

fn default_destination(gateway: Option<IpAddr>, family: &str) -> Result<Cidr> {
    let address = match (gateway, family) {
        // An IPv4 route may have an IPv6 gateway, so the stated family goes first.
        (_, "inet") | (Some(IpAddr::V4(_)), "") => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        (_, "inet6") | (Some(IpAddr::V6(_)), "") => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        (None, "") => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        (_, other) => return Err(wrong("route family", other)),
    };
    Ok(Cidr { address, prefix: 0 })
}

fn plan_neighbour(neighbour: &Neighbour) -> Result<NeighbourPlan> {
    Ok(NeighbourPlan {
        address: parse_ip(&neighbour.address)?,
        mac: parse_mac(&neighbour.mac_address)?,
        interface: check_name(&neighbour.interface_name)?,
    })
}

fn parse_ip(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| wrong("IP address", text))
}

fn parse_optional_ip(text: &str) -> Result<Option<IpAddr>> {
    if text.is_empty() {
        Ok(None)
    } else {
        parse_ip(text).map(Some)
    }
}

fn parse_cidr(text: &str) -> Result<Cidr> {
    let (address, prefix) = text.split_once('/').ok_or_else(|| wrong("CIDR", text))?;
    let address = parse_ip(address)?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix
        .parse()
        .ok()
        .filter(|prefix| *prefix <= longest)
        .ok_or_else(|| wrong("CIDR", text))?;
    Ok(Cidr { address, prefix })
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| {
            // The parser of integers would take a sign.
            let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            digits.then(|| u8::from_str_radix(part, 16).ok())?
        })
        .collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| wrong("MAC address", text))
}

/// What the kernel accepts as a name, and no path.
fn check_name(name: &str) -> Result<String> {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'));
    if name.is_empty() || name.len() > NAME_LIMIT || !plain || name == "." || name == ".." {
        return Err(wrong("interface name", name));
    }
    Ok(name.to_owned())
}

fn wrong(what: &str, text: &str) -> Error {
    Error::InvalidArgument(format!("Cannot use \"{}\" as {what}", text.escape_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str, gateway: &str, family: &str) -> Route {
        Route {
            destination: destination.into(),
            gateway: gateway.into(),
            interface_name: "eth0".into(),
            family: family.into(),
            ..Route::default()
        }
    }

    #[test]
    fn default_routes_take_the_family_of_the_gateway() {
        let got = plan_route(&route("default", "10.0.0.1", "")).expect("a good route");
        assert_eq!(
            (got.destination.address.is_ipv4(), got.destination.prefix, got.scope),
            (true, 0, Scope::Global)
        );
        assert!(
            plan_route(&route("", "fe80::1", ""))
                .expect("a good route")
                .destination
                .address
                .is_ipv6()
        );
        assert!(
            plan_route(&route("", "", "inet6"))
                .expect("a good route")
                .destination
                .address
                .is_ipv6()
        );
        assert!(plan_route(&route("", "", "ipx")).is_err());
    }

    #[test]
    fn routes_without_gateway_come_first_and_have_link_scope() {
        let request = ConfigureNetworkRequest {
            routes: vec![route("", "10.0.0.1", ""), route("10.0.0.1/32", "", "")],
            ..Default::default()
        };
        let plan = Plan::new(&request).expect("a good plan");
        assert_eq!((plan.routes[0].gateway, plan.routes[0].scope), (None, Scope::Link));
        assert!(plan.routes[1].gateway.is_some());
    }

    #[test]
    fn malformed_values() {
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.1/33",
            "::1/129",
            "10.0.0/8",
            "10.0.0.1/-1",
            "10.0.0.1/8/8",
        ] {
            assert!(parse_cidr(text).is_err(), "{text:?}");
        }
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "02:00:00:00:00:0g",
            "+2:00:00:00:00:00",
        ] {
            assert!(parse_mac(text).is_err(), "{text:?}");
        }
        for text in ["", "a/b", "..", "sixteen-letters!", "a b", "eth%d", "é"] {
            assert!(check_name(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_mac("02:aB:00:00:00:ff").ok(), Some([2, 0xab, 0, 0, 0, 0xff]));
    }

    #[test]
    fn too_many_entries_are_refused() {
        let request = ConfigureNetworkRequest {
            routes: vec![route("", "10.0.0.1", ""); LIMIT + 1],
            ..Default::default()
        };
        assert!(matches!(Plan::new(&request), Err(Error::ResourceExhausted(_))));
    }
}
