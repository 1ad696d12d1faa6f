//! Evidence of confidential guests and GPUs, from the sidecar's attesters to the verifier.
//!
//! The devices are not here, so what they speak through is emulated: the kernel's configfs-tsm by a mounted file system,
//! NVIDIA's library by one built from C, the enclave's module by a socket, Azure's paravisor before a real software TPM.
//! What they serve are reports of real machines where the nonce allows it, and else reports that are bound to the nonce
//! and signed by nobody.

mod azure;
mod gpu;
mod guest;
mod kernel;
mod live;
mod nitro;
mod page;
mod set;
mod sidecar;
mod support;
