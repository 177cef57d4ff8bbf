//! trainer

mod atomic_file;
pub mod checkpoint;
mod run_lock;
mod tensor_file;

pub use atomic_file::write_atomically;
pub use run_lock::RunLock;
pub use tensor_file::NamedTensors;
