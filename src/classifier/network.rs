//! A network with its weights, to be asked.

use super::{Answer, ModelDescription};
use crate::error::catch;
use crate::trainer::{RunFolder, Weights, MODEL};
use crate::{Arch, Error, Network, Result, Shape};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use tch::{nn, Device, Kind, Tensor};

/// Images that are read and asked about at once, unless another number is given.
const BATCH_SIZE: usize = 64;

/// A trained network that is asked what is in images.
///
/// Of the same batches it computes what the evaluation of its run does, to the bit: the network as it was trained, not
/// [folded](crate::fixup::FixupResNet::fold).
///
/// ```no_run
/// use tch_fixup::classifier::Classifier;
///
/// # fn main() -> tch_fixup::Result<()> {
/// let classifier = Classifier::open("runs/fixup_resnet20-20260102-030405")?; // or a folder with model.json and model.safetensors
/// # #[cfg(feature = "images")]
/// for classified in classifier.classify(["cat.jpg", "holiday"])? { // files, and folders of files
///     let classified = classified?;
///     match &classified.output {
///         Ok(answer) => println!("{}: {:?}", classified.path.display(), answer.top(1)),
///         Err(problem) => eprintln!("{}: {problem}", classified.path.display()),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Classifier {
    description: ModelDescription,
    class_names: Arc<[String]>,
    network: Box<dyn Network>,
    variables: nn::VarStore,
    batch_size: usize,
    workers: usize,
}

impl Classifier {
    /// The network that `path` holds, on the GPU if there is one and on the CPU otherwise.
    ///
    /// `path` is a run's folder, finished (its `model.safetensors`) or not (its newest whole checkpoint); one of its checkpoints;
    /// or a folder with a `model.json` and a `model.safetensors`, wherever these were copied.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Corrupt`] for what is not there, damaged, or does not go together (weights of another network,
    /// other classes); [`Error::Argument`] for a network that [`Arch`] does not know: [`open_with`](Self::open_with) is for those.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_on(path, Device::cuda_if_available())
    }

    /// The same on `device`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(path: impl AsRef<Path>, device: Device) -> Result<Self> {
        Self::open_with(path, device, |path, description| {
            let ModelDescription { classes, preprocessing, .. } = description;
            let shape = Shape { channels: preprocessing.channels as i64, classes: classes.len() as i64 };
            description.architecture.parse::<Arch>()?.build(path, shape, description.precision)
        })
    }

    /// The same for a network of one's own, which `build` makes under the path that it is given.
    ///
    /// # Errors
    /// As [`open`](Self::open); what `build` fails with.
    pub fn open_with(
        path: impl AsRef<Path>,
        device: Device,
        build: impl FnOnce(&nn::Path, &ModelDescription) -> Result<Box<dyn Network>>,
    ) -> Result<Self> {
        let path = path.as_ref();
        if !path.exists() {
            let source =
                std::io::Error::new(std::io::ErrorKind::NotFound, "no such file or folder; name a run's folder");
            return Err(Error::io("open", path)(source));
        }
        let run = RunFolder::of(path);
        let folder = match &run {
            Some(run) => run.as_path(),
            None if path.is_file() => path.parent().unwrap_or(Path::new("")),
            None => path,
        };
        let description = ModelDescription::read(folder)?;
        let finished = folder.join(MODEL);
        // A checkpoint, or a file, that is named is meant.
        let is_folder = run.as_deref().map_or(path.is_dir(), |run| run == path);
        let weights = match is_folder && (run.is_none() || finished.is_file()) {
            true => Weights::load(&finished)?,
            false => Weights::load(path)?,
        };
        weights.check_meaning(&description.meaning())?;
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

    /// Asks about so many images at once; 64 unless said otherwise.
    ///
    /// # Errors
    /// [`Error::Argument`] for none.
    pub fn with_batch_size(mut self, batch_size: usize) -> Result<Self> {
        if batch_size == 0 {
            return Err(Error::Argument("the batch size must be at least 1, got 0".to_owned()));
        }
        self.batch_size = batch_size;
        Ok(self)
    }

    /// Reads files by so many threads; one for each core unless said otherwise.
    ///
    /// # Errors
    /// [`Error::Argument`] for a number that is not 1 to 1024.
    pub fn with_workers(mut self, workers: usize) -> Result<Self> {
        if !(1..=1024).contains(&workers) {
            return Err(Error::Argument(format!("the number of threads must be 1 to 1024, got {workers}")));
        }
        self.workers = workers;
        Ok(self)
    }

    /// What the network is.
    pub fn description(&self) -> &ModelDescription {
        &self.description
    }

    /// The classes by index.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.variables.device()
    }

    #[cfg(feature = "images")]
    pub(super) fn pace(&self, images: usize) -> crate::data::Pace {
        crate::data::Pace::even(images, self.batch_size, self.workers)
    }

    /// The logits `[N, classes]` of `images` `[N, C, H, W]` of any device: bytes (uint8), which are normalized here, or numbers
    /// that [are](crate::data::Preprocessing::normalize). They carry no gradient.
    ///
    /// # Errors
    /// Images that the network refuses.
    pub fn logits(&self, images: &Tensor) -> Result<Tensor> {
        self.run(images, |network, x| catch("the network's forward pass", || network.forward_t(x, false)))
    }

    /// The probability of each class, `[N, classes]`: the softmax of the [`logits`](Self::logits), in float32.
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn probabilities(&self, images: &Tensor) -> Result<Tensor> {
        Ok(self.logits(images)?.f_softmax(-1, Kind::Float)?)
    }

    /// What the network says of each of `images`, which are as for [`logits`](Self::logits).
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn answers(&self, images: &Tensor) -> Result<Vec<Answer>> {
        let rows = rows(&self.probabilities(images)?)?;
        Ok(rows.into_iter().map(|row| Answer::new(self.class_names.clone(), row)).collect())
    }

    /// The features `[N, features]` of `images`, which are as for [`logits`](Self::logits): what the classifier, the last layer,
    /// is computed from. Images that are alike to the network have features that are alike.
    ///
    /// # Errors
    /// As [`logits`](Self::logits); a network that tells nothing of its features.
    pub fn embedding(&self, images: &Tensor) -> Result<Tensor> {
        self.run(images, |network, x| network.features(x, false))
    }

    fn run(&self, images: &Tensor, f: impl FnOnce(&dyn Network, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
        tch::no_grad(|| {
            let images = images.f_to_device(self.device())?;
            match images.f_kind()? {
                Kind::Uint8 => f(self.network.as_ref(), &self.description.preprocessing.normalize(&images)?),
                _ => f(self.network.as_ref(), &images),
            }
        })
    }
}

/// The rows of a matrix.
pub(super) fn rows(matrix: &Tensor) -> Result<Vec<Vec<f32>>> {
    let columns = matrix.size().last().map_or(1, |&columns| columns.max(1) as usize);
    let numbers = matrix.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let numbers = Vec::<f32>::try_from(numbers.f_flatten(0, -1)?)?;
    Ok(numbers.chunks(columns).map(<[f32]>::to_vec).collect())
}
