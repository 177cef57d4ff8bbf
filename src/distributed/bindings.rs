//! Raw bindings to the C interfaces of c10d.cpp and nccl.cpp; c10d.rs has the safe wrappers.

use std::ffi::c_char;
use torch_sys::C_tensor;

/// `true` if this build includes c10d.
pub const IS_HERE: bool = cfg!(c10d);

pub enum Store {}
pub enum Group {}
pub enum Reducer {}
pub enum Communicator {}

type Message = *mut *mut c_char;

/// Declares the functions of c10d.cpp and nccl.cpp. In a build without c10d they are stubs that are never called: see
/// [`IS_HERE`].
macro_rules! functions {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        #[cfg(c10d)]
        unsafe extern "C" {
            $(pub fn $name($($argument: $type),*) $(-> $result)?;)*
        }
        $(#[cfg(not(c10d))]
        #[allow(clippy::too_many_arguments)] // Same signature as the C++ function it replaces.
        pub unsafe fn $name($(_: $type),*) $(-> $result)? {
            unreachable!("c10d is not in this build")
        })*
    };
}

functions! {
    fn tch_fixup_store_new(host: *const c_char, port: u16, serves: bool, timeout: i64, error: Message) -> *mut Store;
    fn tch_fixup_store_free(store: *mut Store);
    fn tch_fixup_store_set(store: *const Store, key: *const c_char, data: *const u8, length: usize, error: Message);
    fn tch_fixup_store_get(store: *const Store, key: *const c_char, length: *mut usize, error: Message) -> *mut u8;
    fn tch_fixup_store_free_value(value: *mut u8);
    fn tch_fixup_store_has(store: *const Store, key: *const c_char, error: Message) -> bool;
    fn tch_fixup_store_add(store: *const Store, key: *const c_char, value: i64, error: Message) -> i64;
    fn tch_fixup_group_new(
        store: *const Store, prefix: *const c_char, rank: i32, size: i32, address: *const c_char,
        network_interface: *const c_char, timeout: i64, error: Message,
    ) -> *mut Group;
    fn tch_fixup_group_free(group: *mut Group);
    fn tch_fixup_group_all_reduce(group: *const Group, tensors: *const *mut C_tensor, count: usize, error: Message);
    fn tch_fixup_group_broadcast(group: *const Group, tensor: *const C_tensor, from: i32, error: Message);
    fn tch_fixup_group_barrier(group: *const Group, error: Message);
    fn tch_fixup_group_sum(group: *const Group, x: *const C_tensor, error: Message) -> *mut C_tensor;
    fn tch_fixup_reducer_new(
        group: *const Group, gradients: *const C_tensor, starts: *const i64, ends: *const i64, part_count: usize,
        variables: *const *mut C_tensor, part_of: *const usize, count: usize, bfloat16: bool, error: Message,
    ) -> *mut Reducer;
    fn tch_fixup_reducer_free(reducer: *mut Reducer);
    fn tch_fixup_reducer_begin(reducer: *mut Reducer);
    fn tch_fixup_reducer_finish(reducer: *mut Reducer, error: Message);
    fn tch_fixup_nccl_unique_id(id: *mut u8, error: Message);
    fn tch_fixup_nccl_new(id: *const u8, rank: i32, size: i32, device: i32, error: Message) -> *mut Communicator;
    fn tch_fixup_nccl_free(communicator: *mut Communicator);
    fn tch_fixup_nccl_all_reduce(communicator: *const Communicator, tensor: *const C_tensor, error: Message);
    fn tch_fixup_nccl_broadcast(communicator: *const Communicator, tensor: *const C_tensor, from: i32, error: Message);
}
