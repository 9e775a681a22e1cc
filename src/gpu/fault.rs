//! What goes wrong on the device between calls: the driver's first error, and the loss of the device.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use super::{Gpu, GpuError};

/// What the driver said so far. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Fault(Arc<Mutex<Said>>);

#[derive(Default)]
struct Said {
    /// The first error is the cause; later ones are its echoes.
    error: Option<String>,
    /// Why the device was lost.
    lost: Option<String>,
}

impl Fault {
    /// Hears from now on what `device` says.
    pub(super) fn of(device: &wgpu::Device) -> Fault {
        let fault = Fault::default();
        let hears = fault.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            hears.said().error.get_or_insert_with(|| match e {
                wgpu::Error::OutOfMemory { .. } => format!("out of memory; {LESS}"),
                _ => e.to_string(),
            });
        }));
        let hears = fault.clone();
        device.set_device_lost_callback(move |reason, message| {
            let why = if message.is_empty() { format!("{reason:?}").to_lowercase() } else { message };
            hears.said().lost.get_or_insert(why);
        });
        fault
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to do where the device's memory does not suffice.
pub(super) const LESS: &str = "try a smaller --batch or --width";

thread_local! {
    /// Whether this thread polls.
    static POLLING: Cell<bool> = const { Cell::new(false) };
}
static HOOK: Once = Once::new();

impl Gpu {
    /// Reports what the driver raised since the device was opened, if anything.
    ///
    /// # Errors
    /// [`GpuError::Lost`] where the device was lost, else the first error.
    pub fn check(&self) -> Result<(), GpuError> {
        let (error, lost) = {
            let said = self.fault.said();
            (said.error.clone(), said.lost.is_some())
        };
        match error {
            Some(error) => Err(self.cause(GpuError::Reported(error))),
            None if lost => self.alive(),
            None => Ok(()),
        }
    }

    /// Waits until all submitted work is done.
    ///
    /// # Errors
    /// As [`Gpu::check`].
    pub fn wait(&self) -> Result<(), GpuError> {
        self.poll(wgpu::PollType::wait_indefinitely())
    }

    /// Waits as `until` says, and looks at what the driver raised.
    pub(super) fn poll(&self, until: wgpu::PollType) -> Result<(), GpuError> {
        self.try_poll(until).map_err(|e| self.cause(e))?;
        self.check()
    }

    /// The loss of the device, where that is what an error comes from; else the error.
    pub(crate) fn cause(&self, error: GpuError) -> GpuError {
        self.alive().err().unwrap_or(error)
    }

    /// Reports the loss of the device alone, once all submitted work is done.
    ///
    /// # Errors
    /// [`GpuError::Lost`].
    pub fn alive(&self) -> Result<(), GpuError> {
        let lost = || self.fault.said().lost.clone();
        let lost = lost().or_else(|| {
            // A device that was destroyed says so once its work is done.
            let _ = self.try_poll(wgpu::PollType::wait_indefinitely());
            lost()
        });
        lost.map_or(Ok(()), |why| Err(GpuError::Lost { adapter: self.info().name.clone(), why }))
    }

    /// wgpu panics where it finds the device lost while it waits; here that is an error as any other, and nothing is printed.
    fn try_poll(&self, until: wgpu::PollType) -> Result<(), GpuError> {
        HOOK.call_once(|| {
            let otherwise = take_hook();
            set_hook(Box::new(move |panic| {
                if !POLLING.get() {
                    otherwise(panic);
                }
            }));
        });
        POLLING.set(true);
        let polled = catch_unwind(AssertUnwindSafe(|| self.device.poll(until)));
        POLLING.set(false);
        match polled {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(GpuError::Reported(e.to_string())),
            Err(panic) => Err(GpuError::Reported(panic.downcast_ref().cloned().unwrap_or_else(|| "waiting failed".to_string()))),
        }
    }
}

/// Losing devices on purpose.
#[cfg(test)]
pub(crate) mod loss {
    use std::cell::RefCell;

    thread_local! {
        /// The submits to the next losses.
        static LEFT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    }

    /// From here on the device of this thread's submits is lost after `submits[0]` of them, the next one after `submits[1]`, and so on.
    /// What is left of those before.
    pub(crate) fn after(submits: &[usize]) -> Vec<usize> {
        LEFT.replace(submits.to_vec())
    }

    pub(crate) fn submit(device: &wgpu::Device) {
        LEFT.with_borrow_mut(|left| match left.first_mut() {
            Some(0) => {
                left.remove(0);
                device.destroy();
            }
            Some(submits) => *submits -= 1,
            None => {}
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{AdapterChoice, Buffer, Spare};

    fn gpu() -> Gpu {
        Gpu::open(&AdapterChoice::default()).expect("the tests need an adapter")
    }

    fn lost<T>(done: Result<T, GpuError>) {
        match done {
            Err(GpuError::Lost { .. }) => {}
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("nothing is said of the loss"),
        }
    }

    #[test]
    fn wherever_it_is_noticed_a_lost_device_is_called_lost() {
        type Way = fn(&Gpu, &Buffer) -> Result<(), GpuError>;
        let ways: [Way; 4] = [
            |gpu, buffer| gpu.read::<u32>(buffer).map(drop),
            |gpu, _| gpu.read::<u32>(&gpu.buffer("later", 64)?).map(drop),
            |gpu, _| gpu.wait(),
            |gpu, _| gpu.filled("later", &[1; 64], wgpu::BufferUsages::COPY_SRC).and_then(|_| gpu.wait()),
        ];
        for way in ways {
            let gpu = gpu();
            let buffer = gpu.buffer("some", 64).unwrap();
            assert!(way(&gpu, &buffer).is_ok());
            gpu.device.destroy();
            lost(way(&gpu, &buffer));
            lost(gpu.check());
        }
        let gpu = gpu();
        let buffer = gpu.buffer("some", 64).unwrap();
        let submit = || gpu.submit(gpu.device.create_command_encoder(&Default::default()), &[&buffer], &Spare::default());
        let under_way = submit().unwrap();
        gpu.device.destroy();
        lost(submit().and_then(|pending| pending.wait(&gpu)));
        // The earlier copy may have been made in time.
        if let Err(e) = under_way.wait(&gpu) {
            lost::<()>(Err(e));
        }
    }

    #[test]
    fn an_error_of_the_driver_is_no_loss() {
        let gpu = gpu();
        let _ = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("wrong"),
            size: 4,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::MAP_WRITE,
            mapped_at_creation: false,
        });
        assert!(matches!(gpu.wait(), Err(GpuError::Reported(_))));
    }

    /// What wgpu does where a wait finds the device lost, which no call of ours can bring about.
    #[test]
    fn a_panic_while_it_waits_is_an_error() {
        let gpu = gpu();
        gpu.queue.on_submitted_work_done(|| std::panic::panic_any("as wgpu does".to_string()));
        let e = gpu.wait().expect_err("a panic").to_string();
        assert!(e.contains("as wgpu does") && !POLLING.get(), "{e}");
    }
}
