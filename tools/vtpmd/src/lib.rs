//! The component as a host process: shared-page CRB and swtpm-compatible sockets.
