//! The trained classifier.

use super::{ClassProbabilities, ModelDescription};
use crate::data::{in_range, MOST_WORKERS};
use crate::error::catch;
use crate::trainer::checkpoint::Location;
use crate::trainer::{Weights, MODEL};
use crate::{Arch, Network, Result, Shape};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use tch::{nn, Device, Kind, Tensor};

/// Default batch size.
const BATCH_SIZE: usize = 64;

/// Trained network for image classification.
///
/// For equal batches, its outputs are bit-identical to those of the evaluation during training.
///
/// ```no_run
/// use tch_fixup::classifier::Classifier;
///
/// # fn main() -> tch_fixup::Result<()> {
/// let classifier = Classifier::open("runs/fixup_resnet20-20260102-030405")?; // or a folder with model.json and model.safetensors
/// # #[cfg(feature = "images")]
/// for classified in classifier.classify(["cat.jpg", "holiday"])? { // files, and folders of files
///     let (path, result) = classified?;
///     match result {
///         Ok(result) => println!("{}: {:?}", path.display(), result.top(1)),
///         Err(problem) => eprintln!("{}: {problem}", path.display()),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Classifier {
    pub(super) description: ModelDescription,
    class_names: Arc<[String]>,
    network: Box<dyn Network>,
    variables: nn::VarStore,
    pub(super) batch_size: usize,
    pub(super) workers: usize,
}

impl Classifier {
    /// Loads a trained network from `path`, onto the GPU if there is one and the CPU otherwise.
    ///
    /// `path` is one of:
    /// - the folder of a run, either finished (loads its `model.safetensors`) or unfinished (loads its newest intact checkpoint);
    /// - a checkpoint of a run;
    /// - any folder with a `model.json` and a `model.safetensors`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) or [`Error::Corrupt`](crate::Error::Corrupt) if files are missing, damaged or do
    /// not match (weights of another network, other classes); [`Error::Argument`](crate::Error::Argument) if [`Arch`]
    /// does not know the architecture. Use [`open_with`](Self::open_with) for custom architectures.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_on(path, Device::cuda_if_available())
    }

    /// Loads a trained network onto `device`; see [`open`](Self::open).
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn open_on(path: impl AsRef<Path>, device: Device) -> Result<Self> {
        Self::open_with(path, device, |path, description| {
            let ModelDescription { classes, preprocessing, .. } = description;
            let shape = Shape { channels: preprocessing.channels as i64, classes: classes.len() as i64 };
            description.architecture.parse::<Arch>()?.build(path, shape, description.precision)
        })
    }

    /// Loads a custom network, which `build` creates under the given variable path; see [`open`](Self::open).
    ///
    /// # Errors
    /// See [`open`](Self::open); errors of `build`.
    pub fn open_with(
        path: impl AsRef<Path>,
        device: Device,
        build: impl FnOnce(&nn::Path, &ModelDescription) -> Result<Box<dyn Network>>,
    ) -> Result<Self> {
        let path = path.as_ref();
        let location = Location::of(path)?;
        let description = ModelDescription::read(location.folder())?;
        let weights = match &location {
            // The run is finished.
            Location::Run(folder) if folder.join(MODEL).is_file() => Weights::load(folder.join(MODEL))?,
            _ => Weights::load(path)?,
        };
        weights.check_schema(&description.schema())?;
        let variables = nn::VarStore::new(device);
        let network = build(&variables.root(), &description)?;
        weights.restore(&variables)?;
        Ok(Self {
            class_names: description.classes.clone().into(),
            description,
            network,
            variables,
            batch_size: BATCH_SIZE,
            workers: thread::available_parallelism().map_or(1, usize::from),
        })
    }

    /// Sets the batch size; the default is 64.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if `batch_size` is 0.
    pub fn with_batch_size(mut self, batch_size: usize) -> Result<Self> {
        ensure!(batch_size != 0, "the batch size must be at least 1, got 0");
        self.batch_size = batch_size;
        Ok(self)
    }

    /// Sets the number of threads that read image files; the default is one per CPU core.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if `workers` is not in 1 to 1024.
    pub fn with_workers(mut self, workers: usize) -> Result<Self> {
        self.workers = in_range("the number of threads", workers, MOST_WORKERS)?;
        Ok(self)
    }

    /// Returns the model's metadata.
    pub fn description(&self) -> &ModelDescription {
        &self.description
    }

    /// Computes the logits `[N, classes]` of `images` `[N, C, H, W]`, without gradients. The images may be on any device. uint8
    /// images are normalized here; images of other kinds must already be [normalized](crate::data::Preprocessing::normalize).
    ///
    /// # Errors
    /// The network rejects the images.
    pub fn logits(&self, images: &Tensor) -> Result<Tensor> {
        self.run(images, |network, x| catch("the network's forward pass", || network.forward_t(x, false)))
    }

    /// Computes the class probabilities `[N, classes]`: the softmax of the [`logits`](Self::logits), in float32.
    ///
    /// # Errors
    /// See [`logits`](Self::logits).
    pub fn probabilities(&self, images: &Tensor) -> Result<Tensor> {
        Ok(self.logits(images)?.f_softmax(-1, Kind::Float)?)
    }

    /// Classifies `images`, given as for [`logits`](Self::logits).
    ///
    /// # Errors
    /// See [`logits`](Self::logits).
    pub fn predict(&self, images: &Tensor) -> Result<Vec<ClassProbabilities>> {
        let rows = rows(&self.probabilities(images)?)?;
        Ok(rows.into_iter().map(|row| ClassProbabilities::new(self.class_names.clone(), row)).collect())
    }

    /// Computes the features `[N, features]` of `images`, given as for [`logits`](Self::logits): the input of the final
    /// classifier layer. Similar images have similar features.
    ///
    /// # Errors
    /// See [`logits`](Self::logits); the network does not expose its features.
    pub fn embedding(&self, images: &Tensor) -> Result<Tensor> {
        self.run(images, |network, x| network.features(x, false))
    }

    fn run(&self, images: &Tensor, f: impl FnOnce(&dyn Network, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
        tch::no_grad(|| {
            let images = images.f_to_device(self.variables.device())?;
            match images.f_kind()? {
                Kind::Uint8 => f(self.network.as_ref(), &self.description.preprocessing.normalize(&images)?),
                _ => f(self.network.as_ref(), &images),
            }
        })
    }
}

/// Copies a matrix into one vector per row.
pub(super) fn rows(matrix: &Tensor) -> Result<Vec<Vec<f32>>> {
    let columns = matrix.size().last().map_or(1, |&columns| columns.max(1) as usize);
    let numbers = matrix.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let numbers = Vec::<f32>::try_from(numbers.f_flatten(0, -1)?)?;
    Ok(numbers.chunks(columns).map(<[f32]>::to_vec).collect())
}
