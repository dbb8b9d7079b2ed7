//! The sandbox: its containers, and whether it has been configured.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bundle::Additions;
use crate::container::Container;
use crate::descriptors::Descriptors;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::forward::Connections;
use crate::names::Names;
use crate::namespaces::SharedNamespaces;
use crate::notify::NotifySocket;
use crate::proto::{CreateContainerRequest, Storage};
use crate::reaper::Reaper;
use crate::stdio::{Endpoints, TOKEN_BYTES};
use crate::storage::{STORAGE_LIMIT, mount_storage};
use crate::volumes::Volumes;
use crate::{devices, ids, sysctl};

/// Containers that a sandbox may have at once.
const CONTAINER_LIMIT: usize = 256;

/// Everything that the agent knows.
pub struct Sandbox {
    /// Waits for processes.
    pub reaper: Reaper,
    /// Leads to the host.
    pub events: Events,
    /// Forwarded to the workload's ports.
    pub connections: Connections,
    /// Name servers that the host reaches.
    pub names: Names,
    phase: Mutex<Phase>,
    sandbox_id: Mutex<String>,
    containers: Mutex<BTreeMap<String, Option<Arc<Container>>>>,
    namespaces: SharedNamespaces,
    volumes: Volumes,
    /// Places that containers have had mounted.
    storages: Mutex<BTreeSet<String>>,
}

/// A sandbox is configured before it has containers, once or again; a failed attempt is final.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Fresh,
    Configuring,
    Configured { token: [u8; TOKEN_BYTES] },
}

impl Sandbox {
    /// A sandbox without containers, to be configured.
    pub fn new(reaper: Reaper) -> Self {
        Self {
            reaper,
            events: Events::default(),
            connections: Connections::default(),
            names: Names::default(),
            phase: Mutex::new(Phase::Fresh),
            sandbox_id: Mutex::default(),
            containers: Mutex::default(),
            namespaces: SharedNamespaces::default(),
            volumes: Volumes::default(),
            storages: Mutex::default(),
        }
    }

    /// Begins a configuration: the first, or another one of a sandbox that is to be somebody else's and has no containers.
    pub fn begin_configuration(&self) -> Result<()> {
        let containers = lock(&self.containers);
        let mut phase = lock(&self.phase);
        let refused = match *phase {
            Phase::Fresh => None,
            Phase::Configuring => Some("it is being configured, or that has failed"),
            Phase::Configured { .. } => (!containers.is_empty()).then_some("it has containers"),
        };
        if let Some(fact) = refused {
            return Err(Error::FailedPrecondition(format!(
                "Cannot configure the sandbox: {fact}"
            )));
        }
        *phase = Phase::Configuring;
        Ok(())
    }

    /// Ends it with success: from here on other calls are served.
    pub fn end_configuration(&self, sandbox_id: String, token: [u8; TOKEN_BYTES]) {
        *lock(&self.sandbox_id) = sandbox_id;
        *lock(&self.phase) = Phase::Configured { token };
    }

    /// Refuses calls before the configuration.
    pub fn check_configured(&self) -> Result<()> {
        match *lock(&self.phase) {
            Phase::Configured { .. } => Ok(()),
            Phase::Fresh | Phase::Configuring => Err(Error::FailedPrecondition(
                "Cannot serve the call: the sandbox has not been configured".into(),
            )),
        }
    }

    /// The secret of the stdio streams, once there is one.
    pub fn stream_token(&self) -> Option<[u8; TOKEN_BYTES]> {
        match *lock(&self.phase) {
            Phase::Configured { token } => Some(token),
            Phase::Fresh | Phase::Configuring => None,
        }
    }

    /// Creates a container under an id that nobody else can take meanwhile, and returns init's process id.
    pub async fn create_container(&self, request: CreateContainerRequest) -> Result<i32> {
        let id = request.container_id.clone();
        ids::check_container_id(&id)?;
        self.reserve(&id)?;
        match self.create_reserved(request).await {
            Ok((container, pid)) => {
                lock(&self.containers).insert(id, Some(container));
                Ok(pid)
            }
            Err(error) => {
                lock(&self.containers).remove(&id);
                Err(error)
            }
        }
    }

    async fn create_reserved(&self, mut request: CreateContainerRequest) -> Result<(Arc<Container>, i32)> {
        sysctl::set(&request.sysctls)?;
        self.mount_once(&request.storages)?;
        let mut additions = Additions {
            namespaces: self
                .namespaces
                .paths(&request.shared_namespaces, &request.oci_config_json)?,
            devices: devices::of_disks(&request.disks).await?,
            notify: None,
            environment: std::mem::take(&mut request.environment),
        };
        if request.all_devices {
            additions.devices.extend(devices::all()?);
        }
        let volumes = self.volumes.hold(&request.volumes)?;
        let notify = request
            .notify
            .then(|| NotifySocket::open(&request.container_id, self.events.clone()))
            .transpose()?;
        additions.notify = notify.as_ref().map(NotifySocket::directory);
        let (descriptors, further) = Descriptors::open(&request.descriptors)?;
        let is_sandbox = lock(&self.sandbox_id).as_str() == request.container_id;
        let (container, pid) = Container::create(
            request,
            &additions,
            (volumes, notify),
            (descriptors, further),
            self.reaper.clone(),
            self.events.clone(),
        )
        .await?;
        if is_sandbox {
            self.namespaces.take_of(pid)?;
        }
        Ok((container, pid))
    }

    /// Mounts what is not mounted yet.
    fn mount_once(&self, storages: &[Storage]) -> Result<()> {
        let mut mounted = lock(&self.storages);
        for storage in storages {
            if mounted.contains(&storage.target) {
                continue;
            }
            if mounted.len() >= STORAGE_LIMIT {
                return Err(Error::ResourceExhausted(format!(
                    "Cannot mount on \"{}\": the sandbox has {STORAGE_LIMIT} of {STORAGE_LIMIT} storages",
                    storage.target.escape_default()
                )));
            }
            mount_storage(storage)?;
            mounted.insert(storage.target.clone());
        }
        Ok(())
    }

    fn reserve(&self, id: &str) -> Result<()> {
        let mut containers = lock(&self.containers);
        let count = containers.len();
        match containers.entry(id.to_owned()) {
            Entry::Occupied(_) => Err(Error::AlreadyExists(format!(
                "Cannot create container \"{id}\": it exists"
            ))),
            Entry::Vacant(_) if count >= CONTAINER_LIMIT => Err(Error::ResourceExhausted(format!(
                "Cannot create container \"{id}\": the sandbox has {count} of {CONTAINER_LIMIT}"
            ))),
            Entry::Vacant(place) => {
                place.insert(None);
                Ok(())
            }
        }
    }

    /// Finds a container. One that is being created is not there yet.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        let found = lock(&self.containers).get(id).cloned().flatten();
        found.ok_or_else(|| Error::NotFound(format!("Cannot find container \"{}\"", id.escape_default())))
    }

    /// Deletes init, and with it the container.
    pub async fn delete_container(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        container.delete().await?;
        lock(&self.containers).remove(id);
        Ok(())
    }

    /// Works on the streams of a process.
    pub fn with_endpoints<T>(
        &self,
        container_id: &str,
        exec_id: &str,
        work: impl FnOnce(&mut Endpoints) -> T,
    ) -> Result<T> {
        self.container(container_id)?
            .with_process(exec_id, |process| Ok(work(&mut process.endpoints)))
    }
}

/// Nothing panics while holding our locks, and a panic ends the machine anyway.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
