//! A simulator on loopback, and a client to it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hourglass_compute::client::{Client, ClientOptions, Patience, TokenSource};
use hourglass_compute::model::{InstanceSpec, Labels, NewInstance, Recovery, Supply, Template};
use hourglass_compute::simulator::script::Script;
use hourglass_compute::simulator::{ServeOptions, Settings, serve};
use hourglass_units::Instant;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// A simulator in a runtime of its own: dropped, it is gone as after a kill.
pub(crate) struct Simulator {
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<oneshot::Receiver<()>>,
}

pub(crate) fn settings() -> Settings {
    let presets = vec!["8gpu-128vcpu-1600gb".parse().unwrap()];
    let mut settings = Settings::new("eu-north1".parse().unwrap(), "tenant-1".parse().unwrap(), presets);
    settings.add_capacity("gpu-h100-sxm/fabric-1=64").unwrap();
    settings.add_reservation("group-1=gpu-h100-sxm/fabric-1:16").unwrap();
    settings.add_reservation("group-1=gpu-h100-sxm/fabric-1:8@1h..2h").unwrap();
    settings.add_quota("compute.instance.gpu.h100=32").unwrap();
    settings
}

/// A cloud whose minutes are half a second.
pub(crate) fn options(script: &str) -> ServeOptions {
    ServeOptions {
        settings: Settings { script: Script::parse(script).unwrap(), ..settings() },
        state: None,
        tokens: None,
        speed: 120,
        started: started(),
    }
}

pub(crate) fn started() -> Instant {
    "2026-11-22T10:00:00Z".parse().unwrap()
}

impl Simulator {
    pub(crate) fn start(options: ServeOptions) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            serve(listener, options, async { drop(stopped.await) }).await.unwrap();
            let _told = end.send(());
        });
        Self { address, runtime: Some(runtime), stop: Some(stop), ended: Some(ended) }
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        let ended = self.ended.take().unwrap();
        tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap().unwrap();
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(client_options(self.address)).unwrap()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Short enough for a test, long enough for a busy machine.
pub(crate) fn patience() -> Patience {
    Patience {
        attempt: Duration::from_millis(500),
        total: Duration::from_secs(3),
        attempts_max: 4,
        pause_first: Duration::from_millis(10),
        pause_max: Duration::from_millis(50),
    }
}

pub(crate) fn client_options(address: SocketAddr) -> ClientOptions {
    ClientOptions {
        url: format!("http://{address}"),
        authority: None,
        token: TokenSource::None,
        patience: patience(),
        seed: 1,
    }
}

pub(crate) fn spec(gpus: u32, supply: Supply) -> InstanceSpec {
    InstanceSpec {
        platform: "gpu-h100-sxm".parse().unwrap(),
        preset: format!("{gpus}gpu-128vcpu-1600gb").parse().unwrap(),
        cluster: Some("computegpucluster-fabric-1".parse().unwrap()),
        recovery: Recovery::Fail,
        supply,
        hostname: "host".to_owned(),
        stopped: false,
        template: Template { network_interfaces: vec![vec![10, 1, 65], vec![1]], boot_disk: vec![8, 1] },
    }
}

pub(crate) fn new(name: &str) -> NewInstance {
    NewInstance {
        parent: "project-1".parse().unwrap(),
        name: name.to_owned(),
        labels: Labels::from([("hourglass/bid".to_owned(), "7".to_owned())]),
        spec: spec(8, Supply::OnDemand),
    }
}

/// A file in a folder that lives as long as the test.
pub(crate) fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}
