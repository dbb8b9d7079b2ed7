//! The messages that are exchanged with the daemon and containerd; each has the fields that are used here (proto/ has the rest).

use prost::Message;

/// ttrpc.Request
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(string, tag = "1")]
    pub service: String,
    #[prost(string, tag = "2")]
    pub method: String,
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub timeout_nano: i64,
}

/// ttrpc.Response
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    pub payload: Vec<u8>,
}

/// google.rpc.Status
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    #[prost(int32, tag = "1")]
    pub code: i32,
}

/// caisson.shim.v1.AttachRequest
#[derive(Clone, PartialEq, Message)]
pub struct AttachRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(string, tag = "2")]
    pub bundle: String,
    #[prost(bool, tag = "3")]
    pub is_current: bool,
}

/// caisson.shim.v1.AttachResponse
#[derive(Clone, PartialEq, Message)]
pub struct AttachResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub answer: Vec<u8>,
}

/// caisson.shim.v1.RemoveRequest
#[derive(Clone, PartialEq, Message)]
pub struct RemoveRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// caisson.shim.v1.RemoveResponse
#[derive(Clone, PartialEq, Message)]
pub struct RemoveResponse {
    #[prost(uint32, tag = "1")]
    pub remaining: u32,
}

/// containerd.runtime.bootstrap.v1.BootstrapParams
#[derive(Clone, PartialEq, Message)]
pub struct BootstrapParams {
    #[prost(string, tag = "1")]
    pub instance_id: String,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(string, optional, tag = "9")]
    pub socket_dir: Option<String>,
}

/// containerd.task.v2.DeleteResponse
#[derive(Clone, PartialEq, Message)]
pub struct DeleteResponse {
    #[prost(uint32, tag = "2")]
    pub exit_status: u32,
    #[prost(message, optional, tag = "3")]
    pub exited_at: Option<Timestamp>,
}

/// google.protobuf.Timestamp
#[derive(Clone, PartialEq, Message)]
pub struct Timestamp {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}
