//! Addresses, devices, routes and neighbours through netlink.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, LinkUnspec, LinkVxlan, RouteMessageBuilder};

use super::routes::{Hop, Link, Vxlan};

/// Marks our routes. The numbers below 128 that nobody registered are few; this is one.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(75);
const TUNNEL: &str = "keelson-vxlan";
const NETWORK_ID: u32 = 75;
/// Outer Ethernet, IPv4, UDP and VXLAN headers.
pub(crate) const TUNNEL_OVERHEAD: u32 = 50;

/// Why the kernel did not do it.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No netlink socket.
    #[error("open a netlink socket")]
    Open(#[source] std::io::Error),
    /// The kernel refused.
    #[error("{what}")]
    Refused {
        /// What was to be done.
        what: String,
        /// Its error.
        #[source]
        source: rtnetlink::Error,
    },
}

fn refused(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::Refused { what, source }
}

/// A netlink connection to the network namespace that it was opened in.
#[derive(Clone, Debug)]
pub struct Kernel {
    handle: Handle,
}

impl Kernel {
    /// Must be called within a runtime, which then drives the connection.
    pub fn open() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The networks that this node is directly in, with its own addresses there. Loopback and our own tunnel are left out.
    pub async fn links(&self) -> Result<Vec<Link>, NetworkError> {
        let tunnel = self.device(TUNNEL).await?;
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(refused("list addresses"))?;
        let link = |message: &rtnetlink::packet_route::address::AddressMessage| {
            // For point-to-point devices this is the own address, and IFA_ADDRESS the other end's.
            let local = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Local(ip) => Some(*ip),
                _ => None,
            });
            let address = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            });
            let network = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
            let device = message.header.index;
            (!network.addr().is_loopback() && Some(device) != tunnel).then_some(Link { device, network })
        };
        Ok(messages.iter().filter_map(link).collect())
    }

    async fn device(&self, name: &str) -> Result<Option<u32>, NetworkError> {
        let found = self
            .handle
            .link()
            .get()
            .match_name(name.to_string())
            .execute()
            .try_next()
            .await;
        match found {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(error) if is_errno(&error, libc::ENODEV) => Ok(None),
            Err(error) => Err(refused(format!("look for the device {name}"))(error)),
        }
    }

    /// Puts addresses on `lo`, where they are the node's own and no network learns of them.
    pub async fn add_own_addresses(&self, addresses: &[IpAddr]) -> Result<(), NetworkError> {
        let Some(lo) = self.device("lo").await? else {
            return Ok(());
        };
        for ip in addresses {
            let add = self.handle.address().add(lo, *ip, max_prefix(ip));
            add.replace()
                .execute()
                .await
                .map_err(refused(format!("add the address {ip} to lo")))?;
        }
        Ok(())
    }

    /// Takes them off again; those that are not there are no error.
    pub async fn remove_own_addresses(&self, addresses: &[IpAddr]) -> Result<(), NetworkError> {
        let Some(lo) = self.device("lo").await? else {
            return Ok(());
        };
        for ip in addresses {
            let list = self
                .handle
                .address()
                .get()
                .set_link_index_filter(lo)
                .set_address_filter(*ip);
            let found: Vec<_> = list.execute().try_collect().await.map_err(refused("list addresses"))?;
            for message in found {
                let removed = self.handle.address().del(message).execute().await;
                removed.map_err(refused(format!("remove the address {ip} from lo")))?;
            }
        }
        Ok(())
    }

    /// Makes our routes exactly `routes`; `own` is this end of the tunnels, whose device is made when a route needs it.
    pub async fn apply_routes(
        &self,
        routes: &BTreeMap<IpNet, Hop>,
        own: Option<Vxlan>,
        port: u16,
    ) -> Result<(), NetworkError> {
        let tunnels: Vec<Vxlan> = routes
            .values()
            .filter_map(|hop| match hop {
                Hop::Vxlan(end) => Some(*end),
                Hop::Direct { .. } => None,
            })
            .collect();
        let tunnel = match own {
            Some(own) if !tunnels.is_empty() => Some(self.tunnel_device(own, port).await?),
            _ => self.device(TUNNEL).await?,
        };
        if let Some(tunnel) = tunnel {
            self.apply_neighbours(tunnel, &tunnels).await?;
        }
        let existing = self.our_routes().await?;
        let mut kept = HashSet::new();
        for (cidr, hop) in routes {
            let Some(wanted) = route_message(*cidr, hop, tunnel) else {
                continue;
            };
            if existing
                .get(cidr)
                .is_some_and(|found| next_hop(found) == next_hop(&wanted))
            {
                kept.insert(*cidr);
                continue;
            }
            let added = self.handle.route().add(wanted).replace().execute().await;
            added.map_err(refused(format!("add the route to {cidr}")))?;
            tracing::info!(%cidr, ?hop, "route");
            kept.insert(*cidr);
        }
        for (cidr, message) in existing.into_iter().filter(|(cidr, _)| !kept.contains(cidr)) {
            let removed = self.handle.route().del(message).execute().await;
            removed.map_err(refused(format!("remove the route to {cidr}")))?;
            tracing::info!(%cidr, "route removed");
        }
        Ok(())
    }

    /// Removes our routes and the tunnel device.
    pub async fn remove_routes(&self) -> Result<(), NetworkError> {
        self.apply_routes(&BTreeMap::new(), None, 0).await?;
        if let Some(device) = self.device(TUNNEL).await? {
            self.handle
                .link()
                .del(device)
                .execute()
                .await
                .map_err(refused("remove the tunnel device"))?;
        }
        Ok(())
    }

    async fn our_routes(&self) -> Result<BTreeMap<IpNet, RouteMessage>, NetworkError> {
        let mut found = BTreeMap::new();
        for query in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ] {
            let messages: Vec<_> = self
                .handle
                .route()
                .get(query)
                .execute()
                .try_collect()
                .await
                .map_err(refused("list routes"))?;
            let ours = messages.into_iter().filter(|m| m.header.protocol == PROTOCOL);
            found.extend(ours.filter_map(|message| Some((destination(&message)?, message))));
        }
        Ok(found)
    }

    /// The tunnel device, made if it is not there or is another's idea of it.
    async fn tunnel_device(&self, own: Vxlan, port: u16) -> Result<u32, NetworkError> {
        if let Some(device) = self.device(TUNNEL).await? {
            if self.hardware_address(device).await?.as_deref() == Some(&own.mac()) {
                return Ok(device);
            }
            self.handle
                .link()
                .del(device)
                .execute()
                .await
                .map_err(refused("replace the tunnel device"))?;
        }
        let message = LinkVxlan::new(TUNNEL, NETWORK_ID)
            .port(port)
            .local(own.node)
            .learning(false)
            .address(own.mac().to_vec());
        let made = self.handle.link().add(message.build()).execute().await;
        made.map_err(refused("make the tunnel device"))?;
        let Some(device) = self.device(TUNNEL).await? else {
            return Err(refused("find the tunnel device")(rtnetlink::Error::RequestFailed));
        };
        let add = self.handle.address().add(device, own.inner, max_prefix(&own.inner));
        add.replace()
            .execute()
            .await
            .map_err(refused("give the tunnel device its address"))?;
        if let Some(mtu) = self.mtu_towards(own.node).await? {
            let message = LinkUnspec::new_with_index(device)
                .mtu(mtu.saturating_sub(TUNNEL_OVERHEAD))
                .build();
            self.handle
                .link()
                .set(message)
                .execute()
                .await
                .map_err(refused("set the tunnel device's MTU"))?;
        }
        let up = LinkUnspec::new_with_index(device).up().build();
        self.handle
            .link()
            .set(up)
            .execute()
            .await
            .map_err(refused("start the tunnel device"))?;
        tracing::info!(device = TUNNEL, address = %own.inner, "made");
        Ok(device)
    }

    async fn hardware_address(&self, device: u32) -> Result<Option<Vec<u8>>, NetworkError> {
        let link = self.handle.link().get().match_index(device).execute().try_next().await;
        let link = link.map_err(refused("read a device"))?;
        Ok(link.and_then(|link| {
            link.attributes.into_iter().find_map(|a| match a {
                LinkAttribute::Address(address) => Some(address),
                _ => None,
            })
        }))
    }

    /// The MTU of the device that has the node's own address.
    pub async fn mtu_towards(&self, own: Ipv4Addr) -> Result<Option<u32>, NetworkError> {
        let links = self.links().await?;
        let Some(link) = links.iter().find(|link| link.network.addr() == IpAddr::V4(own)) else {
            return Ok(None);
        };
        let found = self
            .handle
            .link()
            .get()
            .match_index(link.device)
            .execute()
            .try_next()
            .await;
        Ok(found.map_err(refused("read a device"))?.and_then(|link| {
            link.attributes.into_iter().find_map(|a| match a {
                LinkAttribute::Mtu(mtu) => Some(mtu),
                _ => None,
            })
        }))
    }

    /// Tells the tunnel device where each other end is: which hardware address has the inner address, which node has the hardware address.
    async fn apply_neighbours(&self, device: u32, ends: &[Vxlan]) -> Result<(), NetworkError> {
        for end in ends {
            let neighbours = self.handle.neighbours();
            let inner = neighbours
                .add(device, end.inner)
                .link_layer_address(&end.mac())
                .replace()
                .execute()
                .await;
            inner.map_err(refused(format!("add the neighbour {}", end.inner)))?;
            let outer = neighbours.add_bridge(device, &end.mac()).destination(end.node.into());
            let outer = outer.flags(NeighbourFlags::Own).replace().execute().await;
            outer.map_err(refused(format!("add the tunnel to {}", end.node)))?;
        }
        let known: HashSet<Vec<u8>> = ends.iter().map(|end| end.mac().to_vec()).collect();
        for family in [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Bridge] {
            let list = self.handle.neighbours().get().set_address_family(family).execute();
            let found: Vec<NeighbourMessage> = list.try_collect().await.map_err(refused("list neighbours"))?;
            for message in found {
                let gone = hardware(&message).is_some_and(|mac| !known.contains(mac));
                let permanent = message.header.state == NeighbourState::Permanent;
                if message.header.ifindex == device && permanent && gone {
                    self.handle
                        .neighbours()
                        .del(message)
                        .execute()
                        .await
                        .map_err(refused("remove a neighbour"))?;
                }
            }
        }
        Ok(())
    }
}

fn hardware(message: &NeighbourMessage) -> Option<&Vec<u8>> {
    message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(address) => Some(address),
        _ => None,
    })
}

fn max_prefix(ip: &IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn is_errno(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code().abs() == errno)
}

/// None for a tunnel route without a tunnel device.
fn route_message(cidr: IpNet, hop: &Hop, tunnel: Option<u32>) -> Option<RouteMessage> {
    let builder = RouteMessageBuilder::<IpAddr>::new().protocol(PROTOCOL);
    let builder = builder.destination_prefix(cidr.network(), cidr.prefix_len()).ok()?;
    let builder = match hop {
        Hop::Direct { gateway, device } => builder.gateway(*gateway).ok()?.output_interface(*device),
        // The gateway is in the very network that the route is for, so the kernel must be told that it is near.
        Hop::Vxlan(end) => builder.gateway(end.inner).ok()?.output_interface(tunnel?).onlink(),
    };
    Some(builder.build())
}

fn destination(message: &RouteMessage) -> Option<IpNet> {
    use rtnetlink::packet_route::route::RouteAddress;
    let ip = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })?;
    IpNet::new(ip, message.header.destination_prefix_length).ok()
}

/// Gateway and device of a route.
fn next_hop(message: &RouteMessage) -> (Option<&RouteAttribute>, Option<&RouteAttribute>) {
    let find = |wanted: fn(&RouteAttribute) -> bool| message.attributes.iter().find(|a| wanted(a));
    (
        find(|a| matches!(a, RouteAttribute::Gateway(_))),
        find(|a| matches!(a, RouteAttribute::Oif(_))),
    )
}
