//! The service: converts, calls the model, converts back.
//!
//! What changes state runs in a task of its own: a caller that goes away in the middle must not leave half of it.

use std::fs;
use std::future::Future;
use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::console::Size;
use crate::error::{Error, Result};
use crate::events::Subscription;
use crate::proto::agent_server::Agent;
use crate::proto::*;
use crate::sandbox::Sandbox;
use crate::{configure, network, power, processors, shown, stats};

/// Serves the sandbox's API.
pub struct Service(pub Arc<Sandbox>);

type Reply<T> = std::result::Result<Response<T>, Status>;

impl Service {
    /// The model, once it is configured.
    fn sandbox(&self) -> Result<Arc<Sandbox>> {
        self.0.check_configured()?;
        Ok(Arc::clone(&self.0))
    }
}

/// Lets `work` end also when the caller does not wait for it.
async fn complete<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|error| Err(Error::Internal(format!("Cannot complete the call: {error}"))))
}

#[tonic::async_trait]
impl Agent for Service {
    async fn configure(&self, request: Request<ConfigureRequest>) -> Reply<ConfigureResponse> {
        let sandbox = Arc::clone(&self.0);
        let response = complete(async move { configure::configure(&sandbox, request.into_inner()).await }).await?;
        Ok(Response::new(response))
    }

    async fn configure_network(&self, request: Request<ConfigureNetworkRequest>) -> Reply<ConfigureNetworkResponse> {
        self.0.check_configured()?;
        complete(async move { network::configure(request.get_ref()).await }).await?;
        Ok(Response::new(ConfigureNetworkResponse {}))
    }

    type EventsStream = Subscription;

    async fn events(&self, _: Request<EventsRequest>) -> Reply<Subscription> {
        Ok(Response::new(self.sandbox()?.events.subscribe()?))
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Reply<CreateContainerResponse> {
        let sandbox = self.sandbox()?;
        let pid = complete(async move { sandbox.create_container(request.into_inner()).await }).await?;
        Ok(Response::new(CreateContainerResponse {
            guest_pid: pid.unsigned_abs(),
        }))
    }

    async fn create_exec(&self, request: Request<CreateExecRequest>) -> Reply<CreateExecResponse> {
        let request = request.into_inner();
        self.sandbox()?.container(&request.container_id)?.create_exec(request)?;
        Ok(Response::new(CreateExecResponse {}))
    }

    async fn create_file_transfer(
        &self,
        request: Request<CreateFileTransferRequest>,
    ) -> Reply<CreateFileTransferResponse> {
        let request = request.into_inner();
        self.sandbox()?
            .container(&request.container_id)?
            .create_file_transfer(request)?;
        Ok(Response::new(CreateFileTransferResponse {}))
    }

    async fn start_process(&self, request: Request<StartProcessRequest>) -> Reply<StartProcessResponse> {
        let request = request.into_inner();
        let container = self.sandbox()?.container(&request.container_id)?;
        let start = async move {
            if request.exec_id.is_empty() {
                container.start_init().await
            } else {
                container.start_exec(&request.exec_id).await
            }
        };
        let pid = complete(start).await?;
        Ok(Response::new(StartProcessResponse {
            guest_pid: pid.unsigned_abs(),
        }))
    }

    async fn signal_process(&self, request: Request<SignalProcessRequest>) -> Reply<SignalProcessResponse> {
        let request = request.into_inner();
        self.sandbox()?
            .container(&request.container_id)?
            .signal(&request.exec_id, request.signal, request.all)?;
        Ok(Response::new(SignalProcessResponse {}))
    }

    async fn resize_terminal(&self, request: Request<ResizeTerminalRequest>) -> Reply<ResizeTerminalResponse> {
        let request = request.into_inner();
        let size = Size::new(request.columns, request.rows);
        self.sandbox()?
            .container(&request.container_id)?
            .resize(&request.exec_id, size)?;
        Ok(Response::new(ResizeTerminalResponse {}))
    }

    async fn delete_process(&self, request: Request<DeleteProcessRequest>) -> Reply<DeleteProcessResponse> {
        let request = request.into_inner();
        let sandbox = self.sandbox()?;
        if request.exec_id.is_empty() {
            complete(async move { sandbox.delete_container(&request.container_id).await }).await?;
        } else {
            sandbox
                .container(&request.container_id)?
                .delete_exec(&request.exec_id)?;
        }
        Ok(Response::new(DeleteProcessResponse {}))
    }

    async fn list_processes(&self, request: Request<ListProcessesRequest>) -> Reply<ListProcessesResponse> {
        let container = self.sandbox()?.container(&request.get_ref().container_id)?;
        Ok(Response::new(ListProcessesResponse {
            processes: container.list(),
        }))
    }

    async fn show_processes(&self, request: Request<ShowProcessesRequest>) -> Reply<ShowProcessesResponse> {
        let container = self.sandbox()?.container(&request.get_ref().container_id)?;
        Ok(Response::new(shown::read(&container.cgroup().processes())))
    }

    async fn pause_container(&self, request: Request<PauseContainerRequest>) -> Reply<PauseContainerResponse> {
        let container = self.sandbox()?.container(&request.get_ref().container_id)?;
        complete(async move { container.pause().await }).await?;
        Ok(Response::new(PauseContainerResponse {}))
    }

    async fn resume_container(&self, request: Request<ResumeContainerRequest>) -> Reply<ResumeContainerResponse> {
        let container = self.sandbox()?.container(&request.get_ref().container_id)?;
        complete(async move { container.resume().await }).await?;
        Ok(Response::new(ResumeContainerResponse {}))
    }

    async fn update_container(&self, request: Request<UpdateContainerRequest>) -> Reply<UpdateContainerResponse> {
        let request = request.into_inner();
        let container = self.sandbox()?.container(&request.container_id)?;
        complete(async move { container.update(&request.linux_resources_json).await }).await?;
        Ok(Response::new(UpdateContainerResponse {}))
    }

    async fn online_processors(&self, request: Request<OnlineProcessorsRequest>) -> Reply<OnlineProcessorsResponse> {
        self.0.check_configured()?;
        processors::bring_online(request.get_ref().count).await?;
        Ok(Response::new(OnlineProcessorsResponse {}))
    }

    async fn get_stats(&self, request: Request<GetStatsRequest>) -> Reply<GetStatsResponse> {
        let container = self.sandbox()?.container(&request.get_ref().container_id)?;
        Ok(Response::new(stats::read(container.cgroup())?))
    }

    async fn serve_names(&self, request: Request<ServeNamesRequest>) -> Reply<ServeNamesResponse> {
        let sandbox = self.sandbox()?;
        complete(async move { sandbox.names.serve(&request.get_ref().addresses).await }).await?;
        Ok(Response::new(ServeNamesResponse {}))
    }

    type NameQueriesStream = ReceiverStream<std::result::Result<NameQuery, Status>>;

    async fn name_queries(&self, request: Request<Streaming<NameAnswer>>) -> Reply<Self::NameQueriesStream> {
        let queries = &self.sandbox()?.names.queries;
        Ok(Response::new(queries.send_to_host(request.into_inner())))
    }

    async fn ping(&self, _: Request<PingRequest>) -> Reply<PingResponse> {
        self.0.check_configured()?;
        Ok(Response::new(PingResponse {
            agent_resident_bytes: resident_bytes(),
        }))
    }

    async fn power_off(&self, _: Request<PowerOffRequest>) -> Reply<PowerOffResponse> {
        // Not before the configuration either: the host ends such a VM by its VMM.
        self.0.check_configured()?;
        power::flush();
        Ok(Response::new(PowerOffResponse {}))
    }
}

/// The second number of statm, in pages.
fn resident_bytes() -> u64 {
    const PAGE: u64 = 4096;
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok())
        .unwrap_or(0)
        * PAGE
}
