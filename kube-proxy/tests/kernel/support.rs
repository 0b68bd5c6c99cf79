//! Hosts for tests: network namespaces without a name, each held by a thread, gone with it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

type Task = Box<dyn FnOnce() + Send>;

/// A network namespace of its own, and a thread in it that runs what it is given.
pub struct Host {
    tasks: mpsc::Sender<Task>,
    path: String,
}

impl Host {
    pub fn new() -> Self {
        let (tasks, inbox) = mpsc::channel::<Task>();
        let (ready, path) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
            sh("ip link set lo up");
            // The thread's mounts of /proc/sys follow the network namespace of whoever opens a file there.
            ready
                .send(format!(
                    "/proc/{}/task/{}/ns/net",
                    std::process::id(),
                    nix::unistd::gettid()
                ))
                .unwrap();
            inbox.iter().for_each(|task| task());
        });
        Self {
            tasks,
            path: path.recv().unwrap(),
        }
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Runs `f` in the namespace; panics of `f` come through.
    pub fn run<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.tasks
            .send(Box::new(move || {
                _ = done.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)))
            }))
            .unwrap();
        result
            .recv()
            .unwrap()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs shell commands there, every one of which must succeed.
    pub fn sh(&self, commands: &str) -> String {
        let commands = commands.to_string();
        self.run(move || sh(&commands))
    }

    /// A veth pair between the two hosts.
    pub fn link(&self, device: &str, other: &Host, other_device: &str) {
        self.sh(&format!(
            "ip link add {device} type veth peer name {other_device} netns {}",
            other.path
        ));
        self.sh(&format!("ip link set {device} up"));
        other.sh(&format!("ip link set {other_device} up"));
    }

    /// Answers every TCP connection with the server's name and the client's address as it sees it, then echoes.
    pub fn serve_tcp(&self, address: &str, name: &str) {
        let (address, name) = (address.to_string(), name.to_string());
        self.run(move || {
            let listener = TcpListener::bind(&address).unwrap();
            std::thread::spawn(move || {
                for connection in listener.incoming().flatten() {
                    let name = name.clone();
                    std::thread::spawn(move || answer(connection, &name));
                }
            });
        });
    }

    /// Answers every datagram with the server's name.
    pub fn serve_udp(&self, address: &str, name: &str) {
        let (address, name) = (address.to_string(), name.to_string());
        self.run(move || {
            let socket = UdpSocket::bind(&address).unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                    _ = socket.send_to(name.as_bytes(), peer);
                }
            });
        });
    }

    /// Connects; (server's name, the address it saw), or the error's kind.
    pub fn ask(&self, to: &str) -> Result<(String, IpAddr), std::io::ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        self.run(move || {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).map_err(|e| e.kind())?;
            hello(&mut stream).map_err(|e| e.kind())
        })
    }

    /// A socket that sends to one address, always from the same port.
    pub fn udp_client(&self, to: &str) -> UdpClient {
        let to: SocketAddr = to.parse().unwrap();
        self.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket.connect(to).unwrap();
            UdpClient(socket)
        })
    }

    /// Connects and keeps the connection.
    pub fn connect(&self, to: &str) -> TcpStream {
        let to: SocketAddr = to.parse().unwrap();
        self.run(move || {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).unwrap();
            hello(&mut stream).unwrap();
            stream
        })
    }
}

/// A UDP socket in some host.
pub struct UdpClient(UdpSocket);

impl UdpClient {
    /// Sends a datagram; the answering server's name.
    pub fn ask(&mut self) -> String {
        self.0.send(b"?").unwrap();
        let mut buffer = [0; 64];
        let size = self.0.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..size]).into_owned()
    }
}

fn answer(mut connection: TcpStream, name: &str) {
    let Ok(peer) = connection.peer_addr() else { return };
    if writeln!(connection, "{name} {}", peer.ip()).is_err() {
        return;
    }
    let mut buffer = [0; 64];
    while let Ok(size @ 1..) = connection.read(&mut buffer) {
        if connection.write_all(&buffer[..size]).is_err() {
            return;
        }
    }
}

fn hello(stream: &mut TcpStream) -> std::io::Result<(String, IpAddr)> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    let text = String::from_utf8(line).unwrap();
    let (name, ip) = text.split_once(' ').unwrap();
    Ok((name.to_string(), ip.parse().unwrap()))
}

/// Whether an open connection still carries bytes both ways.
pub fn echoes(stream: &mut TcpStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"ping"
}

fn sh(commands: &str) -> String {
    let output = Command::new("sh").args(["-ec", commands]).output().unwrap();
    assert!(
        output.status.success(),
        "{commands}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
