"""The job kinds of this package; torch is imported where they run."""

from slim_mosaic.artifacts import Mosaic
from slimctl.jobs.base.artifacts import Dataset, Flow
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import JobSpec
from slimctl.jobs.training.spec import TrainingSpec
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.networks.registry import AnyNetworkSpec


class CutMosaic(JobSpec):
    """Cuts each image of a data set into tiles of half its size."""

    data: Ref[Dataset]
    """Images to cut."""

    def expect(self, inputs: dict[str, Facts]) -> Facts:
        image = inputs["data"].image
        if image is not None and image.size % 2:
            raise FieldError("data", f"images of {image.size} pixels have no halves")
        tile = image and image.model_copy(update={"size": image.size // 2, "classes": 0})
        return Facts(image=tile, flip_valid=False)

    def run(self, context: JobContext) -> Mosaic:
        from safetensors.torch import save_file

        from slimctl.jobs.storage.tensors import load_images

        data = context.input(self.data)
        images = load_images(context.store, data)
        half = data.image.size // 2
        tiles = images.unfold(2, half, half).unfold(3, half, half)
        tiles = tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, data.image.channels, half, half)
        save_file({"tiles": tiles.contiguous()}, context.folder / "tiles.safetensors")
        image = data.image.model_copy(update={"size": half, "classes": 0})
        return Mosaic(image=image, count=len(tiles))


class TrainMosaic(TrainingSpec):
    """A flow from noise to the tiles of a mosaic."""

    mosaic: Ref[Mosaic]
    """Tiles to learn."""
    network: AnyNetworkSpec
    """Architecture of the velocity network."""

    def expect(self, inputs: dict[str, Facts]) -> Facts:
        image = inputs["mosaic"].image
        return Facts(image=image, flow=Parameterisation(), network=self.network)

    def run(self, context: JobContext) -> Flow:
        from slimctl.jobs.storage.tensors import save_weights
        from slimctl.jobs.training.objective import objective_of
        from slimctl.jobs.training.ray_train import train_on_ray

        image = context.input(self.mosaic).image
        objective = objective_of(context, self)
        trained = train_on_ray(context, self, self.network, image, objective)
        save_weights(trained.weights, context.folder / "weights.safetensors")
        return Flow(
            source="network",
            image=image,
            network=self.network.model_dump(mode="json"),
            parameters=trained.parameters,
        )
