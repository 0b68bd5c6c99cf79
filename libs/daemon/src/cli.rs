//! Flags that every daemon has, and the frame around its `run` function.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::ConfigError;
use crate::{Shutdown, notify};

/// How the daemon writes its log.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct LogOptions {
    /// Verbosity of the log: 0 warnings, 1 and 2 information, 3 and 4 debugging, above that everything. RUST_LOG overrules it.
    #[arg(short = 'v', long = "v", default_value_t = 2, value_name = "LEVEL")]
    pub v: u8,
    /// Format of the log.
    #[arg(long, value_enum, default_value_t)]
    pub logging_format: LogFormat,
}

/// A format of the log.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// Where the daemon serves its own endpoints and with which certificates.
#[derive(clap::Args, Clone, Debug)]
pub struct ServingOptions {
    /// Address to serve on.
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    pub bind_address: IpAddr,
    /// Certificate to serve with: a PEM file, read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub tls_cert_file: PathBuf,
    /// Private key of the certificate: a PEM file, read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub tls_private_key_file: PathBuf,
    /// CA that signs the client certificates to trust: a PEM file, read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: PathBuf,
}

impl ServingOptions {
    /// Binds the listener.
    ///
    /// # Errors
    /// One line that names the address.
    pub fn listen(&self, port: u16) -> Result<std::net::TcpListener, ConfigError> {
        listen(SocketAddr::new(self.bind_address, port))
    }
}

/// Binds a listener; an error names the address.
///
/// # Errors
/// When the address is taken, not ours, or not allowed.
pub fn listen(address: SocketAddr) -> Result<std::net::TcpListener, ConfigError> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(listener)
    };
    bind().map_err(|error| ConfigError::Usage(format!("cannot listen on {address}: {error}")))
}

/// Parses the command line. Prints help or version and exits 0; on a wrong flag prints one line and exits 2.
pub fn parse<A: clap::Parser>() -> A {
    A::try_parse().unwrap_or_else(|error| {
        use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
        if matches!(error.kind(), DisplayHelp | DisplayVersion) {
            error.exit();
        }
        let text = error.to_string();
        let line = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
            .collect::<Vec<_>>()
            .join(" ");
        report(A::command().get_name(), &line.trim_start_matches("error: "));
        std::process::exit(2)
    })
}

/// Runs a daemon: log, runtime, signals, systemd. Answers the exit status: 0 after a clean stop, 2 for a wrong flag or file, 1 for any
/// other failure; a failure is one line on standard error.
pub fn run<F, Fut>(name: &str, log: &LogOptions, main: F) -> ExitCode
where
    F: FnOnce(Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    init_log(log);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name(name)
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            report(name, &error);
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        let shutdown = Shutdown::new();
        shutdown.on_signals()?;
        let stopping = shutdown.clone();
        tokio::spawn(async move {
            stopping.cancelled().await;
            notify::stopping();
        });
        main(shutdown).await
    });
    // Blocking threads may sit in a read that never ends; what matters has been awaited.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(name, &format!("{error:#}").replace('\n', " "));
            let usage = error.chain().any(|cause| cause.is::<ConfigError>());
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

/// Starts the log on standard error.
pub fn init_log(options: &LogOptions) {
    let level = match options.v {
        0 => "warn",
        1 | 2 => "info",
        3 | 4 => "debug",
        _ => "trace",
    };
    // The libraries below us speak of every frame at these levels.
    let quiet = "h2=info,hyper=info,rustls=info,tower=info,sled=info,openraft=warn,tonic=info";
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("{level},{quiet}")));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second start in one process, as in tests, keeps the first log.
    let _ = match options.logging_format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

fn report(name: &str, what: &dyn std::fmt::Display) {
    use std::io::Write;
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "{name}: {what}");
}
