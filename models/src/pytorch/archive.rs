//! The zip around a checkpoint: `data.pkl`, and one `data/{key}` a storage.

use std::io::{Cursor, Read};

use zip::{CompressionMethod, ZipArchive};

use super::PytorchError;
use super::pickle::{Element, Object, Objects, Storage, TensorRef};
use crate::tensor::{Float, Tensor, elements};

/// The largest pickle that is read; a checkpoint of the package has one of a few kilobytes.
const MAX_PICKLE_BYTES: u64 = 16 << 20;

/// An opened checkpoint.
pub struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// The folder that `torch.save` puts around everything, `/` included.
    folder: String,
    file_bytes: u64,
    /// The storage that was read last: the tensors of a module that ran on a GPU often share one.
    last: Option<(Storage, Vec<f32>)>,
}

impl<'a> Archive<'a> {
    pub fn open(bytes: &'a [u8]) -> Result<Self, PytorchError> {
        let zip =
            ZipArchive::new(Cursor::new(bytes)).map_err(|error| PytorchError::Zip(error.to_string()))?;
        let folder_of = |name: &str| {
            let folder = name.strip_suffix("data.pkl")?;
            (folder.is_empty() || folder.ends_with('/')).then(|| folder.to_owned())
        };
        let folder = zip.file_names().find_map(folder_of);
        let folder = folder.ok_or(PytorchError::Entry { name: "data.pkl".into() })?;
        let mut archive = Archive { zip, folder, file_bytes: bytes.len() as u64, last: None };
        match archive.entry("byteorder", MAX_PICKLE_BYTES) {
            Ok(order) if order != b"little" => {
                Err(PytorchError::ByteOrder { found: order.escape_ascii().to_string() })
            }
            Ok(_) | Err(PytorchError::Entry { .. }) => Ok(archive),
            Err(error) => Err(error),
        }
    }

    pub fn pickle(&mut self) -> Result<Vec<u8>, PytorchError> {
        self.entry("data.pkl", MAX_PICKLE_BYTES)
    }

    /// The whole of an entry, its checksum verified.
    fn entry(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, PytorchError> {
        let full_name = format!("{}{name}", self.folder);
        let missing = || PytorchError::Entry { name: name.to_owned() };
        let zip_error = |error: String| PytorchError::Zip(format!("{full_name}: {error}"));
        if self.zip.index_for_name(&full_name).is_none() {
            return Err(missing());
        }
        let file = self.zip.by_name(&full_name).map_err(|error| zip_error(error.to_string()))?;
        if file.compression() != CompressionMethod::Stored {
            return Err(zip_error(format!("compressed with {}, expected stored", file.compression())));
        }
        let limit = limit.min(self.file_bytes);
        if file.size() > limit {
            return Err(zip_error(format!("{} bytes, expected at most {limit}", file.size())));
        }
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).map_err(|error| zip_error(error.to_string()))?;
        Ok(bytes)
    }

    /// A tensor's numbers, in row-major order whatever its strides.
    pub fn tensor(
        &mut self,
        name: &str,
        objects: &Objects,
        tensor: &TensorRef,
    ) -> Result<Tensor, PytorchError> {
        let Object::Storage(storage) = objects.get(tensor.storage) else {
            unreachable!("the pickle machine checks what a tensor's storage is");
        };
        check_view(name, storage, tensor)?;
        let numbers = match self.last.take() {
            Some((last, numbers)) if last == *storage => numbers,
            _ => self.numbers(name, storage)?,
        };
        let data = indices(tensor).map(|index| numbers[index]).collect();
        self.last = Some((storage.clone(), numbers));
        Ok(Tensor { shape: tensor.size.clone(), data })
    }

    /// All of a storage.
    fn numbers(&mut self, name: &str, storage: &Storage) -> Result<Vec<f32>, PytorchError> {
        let float = match storage.element {
            Element::F32 => Float::F32,
            Element::F16 => Float::F16,
            Element::Bf16 => Float::Bf16,
            Element::Other(found) => return Err(PytorchError::Dtype { name: name.to_owned(), found }),
        };
        let bytes = self.entry(&format!("data/{}", storage.key), u64::MAX)?;
        let numbers = float.decode(&bytes);
        if numbers.len() != storage.elements {
            let (found, expected) = (numbers.len(), storage.elements);
            return Err(PytorchError::Storage { key: storage.key.clone(), found, expected });
        }
        Ok(numbers)
    }
}

/// Every element of the view is inside its storage, and there are no more of them than the storage has.
fn check_view(name: &str, storage: &Storage, tensor: &TensorRef) -> Result<(), PytorchError> {
    let end = || {
        let axes = tensor.size.iter().zip(&tensor.stride);
        let last = axes.map(|(&size, &stride)| size.checked_sub(1)?.checked_mul(stride));
        last.into_iter().try_fold(tensor.offset, |sum, last| sum.checked_add(last?))?.checked_add(1)
    };
    let count = elements(&tensor.size);
    let fits = match count {
        Some(0) => true,
        Some(count) => count <= storage.elements && end().is_some_and(|end| end <= storage.elements),
        None => false,
    };
    if fits {
        return Ok(());
    }
    Err(PytorchError::View {
        name: name.to_owned(),
        offset: tensor.offset,
        size: tensor.size.clone(),
        stride: tensor.stride.clone(),
        elements: storage.elements,
    })
}

/// Indices into the storage, in row-major order; all of them exist after [`check_view`].
fn indices(tensor: &TensorRef) -> impl Iterator<Item = usize> {
    let count = elements(&tensor.size).unwrap_or_default();
    (0..count).map(|mut position| {
        let mut index = tensor.offset;
        for (&size, &stride) in tensor.size.iter().zip(&tensor.stride).rev() {
            index += position % size * stride;
            position /= size;
        }
        index
    })
}
