"""Prompt-to-Prompt on an unmodified diffusers pipeline: attention processors and `callback_on_step_end`.

Everything attached is detached on exit, whatever happens. The sampling loop stays the pipeline's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from likeness.prompt_to_prompt import solver
from likeness.prompt_to_prompt.alignment import BEHAVIOURS
from likeness.prompt_to_prompt.blend import LocalBlend, compile_blend, mix
from likeness.prompt_to_prompt.checks import (
    NO_GUIDANCE,
    PromptToPromptWarning,
    check_alone,
    check_edits,
    check_given,
    check_pipeline,
    check_prompts,
    check_scheduler,
    edit_notices,
    limit_notices,
    mask_notices,
)
from likeness.prompt_to_prompt.control import Control
from likeness.prompt_to_prompt.edits import Edit, compile_edit, target_of
from likeness.prompt_to_prompt.inversion import Inversion
from likeness.prompt_to_prompt.layers import attention_layers, attention_modules, pixels, recorded_layers
from likeness.prompt_to_prompt.maps import AttentionMaps, Masks
from likeness.prompt_to_prompt.processor import EditedAttention
from likeness.prompt_to_prompt.words import RememberingTokenizer

MOST_STEPS = 1000
REFERENCE_LIMITS = {"reference_stable": 16 * 16, "reference_null": 32 * 32}


class PromptToPrompt:
    """What the context hands out: `inputs` for the pipeline, and afterwards `masks` and `attention_maps`."""

    def __init__(self, pipe: Any, prompts: list[str], edits: list[Edit], options: dict[str, Any]) -> None:
        self.pipe, self.prompts, self.edits, self.options = pipe, prompts, edits, options
        self.behaviour, self.inversion = options["behaviour"], options["inversion"]
        self.tokenizer = RememberingTokenizer(pipe.tokenizer)
        self.notices: list[str] = []
        self._warned: set[str] = set()
        self._judged: list[str] = []  # those on the edits' windows; judged again once the steps are known
        side = options["self_replace_resolution"]
        limit = REFERENCE_LIMITS.get(self.behaviour) if side is None else side * side
        self.control = Control([], store_maps=options["store_attention"], self_limit=limit)
        self._modules = attention_modules(pipe.unet)
        self.layers = attention_layers(pipe.unet, self._modules)
        self._ours = {layer.name: EditedAttention(layer, self.control) for layer in self.layers}
        self._originals: dict[str, Any] = {}
        self._installed: frozenset[str] = frozenset()
        # The scheduler whose step draws the same noise for source and targets, and a step that was set on it before.
        self._sharing: tuple[Any, Any] | None = None
        self._compiled: tuple[Any, ...] = ()
        self._timesteps: Any = None  # of the sampling that runs; every pipeline call makes a new tensor
        self._awaited = False  # the callback of the last UNet evaluation
        self._open = True
        steps = options["num_inference_steps"] or MOST_STEPS  # unknown until sampling: refuse what no count can mend
        self._compile(steps, steps)
        self.attention_maps = AttentionMaps(self.control, self.tokenizer, prompts)
        self.masks = Masks(self.control)

    @property
    def inputs(self) -> dict[str, Any]:
        """Return the arguments that make the pipeline draw source and targets: `pipe(**p2p.inputs, ...)`."""
        given = {
            "prompt": list(self.prompts),
            "num_images_per_prompt": self.options["images_per_prompt"],
            "callback_on_step_end": self._after_step,
            "callback_on_step_end_tensor_inputs": ["latents"],
        }
        if self.inversion is not None:  # SDXL is told the size
            sides = (side * self.pipe.vae_scale_factor for side in self.inversion.noise.shape[-2:])
            given["height"], given["width"] = sides
        negative = self.options["negative_prompt"]
        if negative is not None:
            given["negative_prompt"] = [negative] * len(self.prompts)
        return given

    def latents(self, latents: Tensor | None = None) -> Tensor:
        """Repeat the noise (images, c, h, w) of every image for source and targets, on the pipeline's device.

        Rows come out as the pipeline wants them: all images of the source, then all of the first target, ...
        None means the noise of the inverted photos.
        """
        if latents is None:
            if self.inversion is None:
                raise ValueError("give the noise of each image, p2p.latents(noise): only inverted photos have theirs.")
            latents = self.inversion.noise
        if len(latents) != self.options["images_per_prompt"]:
            raise ValueError(
                f"latents hold the noise of {len(latents)} images, images_per_prompt is "
                f"{self.options['images_per_prompt']}: give one noise for each image."
            )
        device = getattr(self.pipe, "_execution_device", latents.device)
        return latents.repeat(len(self.prompts), 1, 1, 1).to(device, self.pipe.unet.dtype)

    def split(self, pictures: Sequence[Any]) -> list[Sequence[Any]]:
        """Split what the pipeline returned into one sequence of images per prompt, the source first."""
        images = self.options["images_per_prompt"]
        return [pictures[i * images : (i + 1) * images] for i in range(len(self.prompts))]

    def _compile(self, num_inference_steps: int, evaluations: int, device: Any = "cpu") -> None:
        asked = (num_inference_steps, evaluations, torch.device(device))
        if asked == self._compiled:
            return
        tokenizer, source = self.tokenizer, self.prompts[0]
        self.control.edits = [
            compile_edit(edit, tokenizer, source, num_inference_steps, evaluations, self.behaviour, device)
            for edit in self.edits
        ]
        check_edits(self.control.edits, self.edits, evaluations, self.behaviour)
        self.notices = [notice for notice in self.notices if notice not in self._judged]
        self._judged = edit_notices(self.control.edits, self.edits, source, tokenizer, self.behaviour)
        self._notice(self._judged)
        blend = self.options["local_blend"]
        if blend is not None:
            blender = compile_blend(blend, tokenizer, self.prompts, num_inference_steps, self.behaviour)
            self.control.blender = blender.to(device)
        self._compiled = asked

    def _before_unet(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See each UNet evaluation come. Timesteps are not read: on a GPU that would wait for it."""
        timesteps, sample = self.pipe.scheduler.timesteps, args[0] if args else kwargs["sample"]
        if timesteps is not self._timesteps:
            self._begin(sample, len(timesteps))
            self._timesteps = timesteps
        elif self._awaited:
            raise ValueError(
                "the pipeline does not report its steps: call it as pipe(**p2p.inputs, ...), so that it gets "
                "Prompt-to-Prompt's callback_on_step_end."
            )
        else:
            context = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]
            self._follow_guidance(len(sample), len(context))
        self._awaited = True

    def _follow_guidance(self, latents: int, embeddings: int) -> None:
        """See whether a callback switched classifier-free guidance off or on, which halves or doubles the batch."""
        control = self.control
        control.guided = bool(self.pipe.do_classifier_free_guidance)
        if latents != embeddings or latents != control.prompts * control.images * (2 if control.guided else 1):
            raise ValueError(
                f"the batch changed while sampling: {latents} latents, {embeddings} prompt embeddings, with guidance "
                f"{'on' if control.guided else 'off'}, for {control.prompts} prompts x {control.images} images. A "
                "callback that switches guidance off has to return prompt_embeds.chunk(2)[-1] too."
            )

    def _begin(self, sample: Tensor, evaluations: int) -> None:
        check_scheduler(self.pipe.scheduler)  # it may be another than on entry
        guided = bool(self.pipe.do_classifier_free_guidance)
        rows = len(sample) // (2 if guided else 1)
        prompts = len(self.prompts)
        if rows != prompts * self.options["images_per_prompt"]:
            raise ValueError(
                f"the pipeline draws {rows} pictures, but source and targets are {prompts} prompts x "
                f"{self.options['images_per_prompt']} images: call it as pipe(**p2p.inputs, "
                "latents=p2p.latents(noise))."
            )
        noise = sample[-rows:].unflatten(0, (prompts, -1))
        if not all(torch.equal(noise[0], other) for other in noise[1:]):
            raise ValueError(
                "source and targets start from different noise, so nothing can be kept: pass "
                "latents=p2p.latents(noise), with the noise of each image."
            )
        if self.inversion is not None:
            self.inversion.check(self.pipe.scheduler, noise[0])
        self._compile(self.pipe.scheduler.num_inference_steps, evaluations, sample.device)
        size = tuple(sample.shape[-2:])
        layers_of = "corrected" if self.control.blender is None else self.behaviour  # the reference's are its blend's
        chosen = recorded_layers(self.layers, size, layers_of) if self.control.records else frozenset()
        self.control.begin(rows, guided, size, chosen)
        self._notice(limit_notices(self.control, self.layers))
        if self.options["negative_prompt"] and not guided:
            self._notice([NO_GUIDANCE])
        self._install()
        self._share_noise(self.pipe.scheduler)

    def _after_step(self, pipe: Any, step: int, timestep: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
        control = self.control
        if not self._open:
            raise ValueError("p2p.inputs were used after their context was left: call the pipeline inside of it.")
        if pipe is not self.pipe or pipe.scheduler.timesteps is not self._timesteps:
            raise ValueError(
                "p2p.inputs were given to another pipeline, or this one's UNet or scheduler was replaced inside the "
                "context: enter it with the pipeline that draws, as it is."
            )
        if self._installed and control.calls == 0:
            raise ValueError(
                "Prompt-to-Prompt's attention processors were replaced while it was active (attention slicing "
                "or xformers switched on inside the context?): do that before entering it."
            )
        self._awaited = False
        latents = given["latents"]
        if self.inversion is not None:
            latents = self.inversion.held(latents, step)
        if control.blender is not None and step >= control.blender.first_step:
            masks = control.blender.masks(control.averaged(), tuple(latents.shape[-2:]))
            control.masks.append(masks)
            latents = mix(latents, masks)
            if self.behaviour == "corrected":
                solver.mix_history(pipe.scheduler, masks)
        control.at_step(step + 1)
        if step + 1 < len(pipe.scheduler.timesteps):
            self._install()
        else:
            self._restore()
            self._notice(mask_notices(control))
        result = {"latents": latents}
        after: Callable[..., dict[str, Tensor]] | None = self.options["callback_on_step_end"]
        return result | (after(pipe, step, timestep, {**given, **result}) or {}) if after else result

    def _notice(self, found: list[str]) -> None:
        """Keep what was not said yet, and say it once also as a warning."""
        self.notices += [notice for notice in found if notice not in self.notices]
        for notice in [notice for notice in self.notices if notice not in self._warned]:
            self._warned.add(notice)
            warnings.warn(notice, PromptToPromptWarning, stacklevel=2)

    def _install(self) -> None:
        """Put our processors where this step has something to do, and the pipeline's own everywhere else."""
        control = self.control
        self._swap(layer.name for layer in self.layers if control.acts_on(layer, pixels(layer, control.size)))

    def _share_noise(self, scheduler: Any) -> None:
        """Let the scheduler that draws share its noise for the length of a sampling; None puts it back."""
        if self._sharing is not None:
            shared, before = self._sharing
            del shared.step
            if before is not None:
                shared.step = before
            self._sharing = None
        if scheduler is not None and solver.draws_noise(scheduler):
            self._sharing = scheduler, vars(scheduler).get("step")
            drawn = self.inversion is None
            scheduler.step = solver.with_shared_noise(scheduler.step, len(self.prompts), drawn)

    def _restore(self) -> None:
        self._swap(())
        self._share_noise(None)

    def _close(self) -> None:
        self._restore()
        self._open = False

    def _swap(self, names: Iterable[str]) -> None:
        wanted = frozenset(names)
        for name in self._installed - wanted:
            self._modules[name].set_processor(self._originals.pop(name))
        for name in wanted - self._installed:
            self._originals[name] = self._modules[name].processor
            self._modules[name].set_processor(self._ours[name])
        self._installed = wanted


@contextmanager
def prompt_to_prompt(
    pipe: Any,
    source_prompt: str,
    edits: Sequence[Edit],
    *,
    behaviour: str = "corrected",
    local_blend: LocalBlend | None = None,
    store_attention: bool = False,
    images_per_prompt: int = 1,
    negative_prompt: str | None = None,
    self_replace_resolution: int | None = None,
    num_inference_steps: int | None = None,
    inversion: Inversion | None = None,
    callback_on_step_end: Callable[..., dict[str, Tensor]] | None = None,
) -> Iterator[PromptToPrompt]:
    """Attach Prompt-to-Prompt to a StableDiffusionPipeline or StableDiffusionXLPipeline (Hertz et al. 2022).

    Inside the context call `pipe(**p2p.inputs, latents=p2p.latents(noise), ...)` with noise (images, c, h, w);
    it draws the source and every target, image by image from the same noise. Self-attention is injected in maps of
    at most `self_replace_resolution` squared pixels, whatever their shape; None means a quarter of the latents'
    pixels, half their side (16 and 32 in the reference behaviours). `num_inference_steps` only lets windows be
    checked before sampling. With an `inversion`, the source is its photos instead of pictures that are drawn.

    Raises ValueError for a word that is not in its prompt, an edit that does nothing, prompts Replace cannot
    pair, a pipeline it does not know, and a pipeline call without `p2p.inputs`.
    """
    if behaviour not in BEHAVIOURS:
        raise ValueError(f"behaviour={behaviour!r} is unknown; choose one of {', '.join(BEHAVIOURS)}.")
    check_given(edits, images_per_prompt)
    if self_replace_resolution is not None and self_replace_resolution < 1:
        raise ValueError(f"self_replace_resolution={self_replace_resolution}: expected a side of at least 1.")
    check_pipeline(pipe)
    check_alone(pipe)
    options = {
        "behaviour": behaviour, "local_blend": local_blend, "store_attention": store_attention,
        "images_per_prompt": images_per_prompt, "negative_prompt": negative_prompt,
        "self_replace_resolution": self_replace_resolution, "num_inference_steps": num_inference_steps,
        "inversion": inversion, "callback_on_step_end": callback_on_step_end,
    }  # fmt: skip
    if inversion is not None:
        options["images_per_prompt"] = inversion.images(source_prompt, images_per_prompt)
    prompts = [source_prompt, *(target_of(edit, source_prompt) for edit in edits)]
    check_prompts(pipe, prompts)
    p2p = PromptToPrompt(pipe, prompts, list(edits), options)
    hook = pipe.unet.register_forward_pre_hook(p2p._before_unet, with_kwargs=True)
    try:
        yield p2p
        p2p._notice(mask_notices(p2p.control))  # SDXL's denoising_end stops before the last step of the schedule
    finally:
        hook.remove()
        p2p._close()


def seeded_latents(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Return standard normal noise (seeds, c, h, w) in float32; each image's depends on its own seed alone."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(int(s))) for s in seeds])
