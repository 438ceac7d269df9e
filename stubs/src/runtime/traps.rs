//! What no image has: files, sockets, processes, signals, a wall clock. Whoever calls one of these is stopped by its name.
//!
//! # Soundness
//! The functions take no arguments that C passes them, which the calling convention allows, and never return.

use super::world::trap;

macro_rules! trapped {
    ($($name:ident)+) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> ! {
            trap(stringify!($name))
        }
    )+};
}

trapped! {
    __assert_fail __dprintf_chk __fdelt_chk __fprintf_chk __isoc99_sscanf __stack_chk_fail __vfprintf_chk
    _longjmp _setjmp abort accept bind close closedir connect dladdr dlclose dlerror dlopen dlsym
    fclose fcntl feof ferror fflush fgets fileno fopen fputc fputs fread freeaddrinfo fseek fstat ftell
    fwrite gai_strerror getaddrinfo getcontext gethostbyname getnameinfo getpid getsockname getsockopt
    gettimeofday gmtime_r ioctl listen madvise makecontext mlock mmap mprotect munmap open opendir perror
    read readdir recvmsg remove select sendmsg setcontext setsockopt shmat shmdt shmget shutdown sigaction
    signal sleep socket stat strtok syscall sysconf tcgetattr tcsetattr time uname usleep write
}
