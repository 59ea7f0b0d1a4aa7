import copy

import pytest
import torch
from torch import nn

from paretune.data import call
from paretune.distill import Distill, distill
from paretune.distill.losses import soft_labels
from paretune.errors import InputError, RecipeError, TaskError
from paretune.methods import find
from paretune.recipe import Context, parse_recipe
from paretune.task import Task

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(128, 4, generator=GENERATOR)
Y = (X[:, 0] > 0).long()


def _net(seed=0):
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    torch.set_rng_state(state)
    return net


def _task(**fields):
    return Task(**{"model": _net, "train": (X[:96], Y[:96]), "val": (X[96:], Y[96:]), "batch_size": 16} | fields)


def _agreement(student, teacher):
    with torch.no_grad():
        return soft_labels(student.eval()(X), teacher.eval()(X)).item()


def test_the_student_comes_to_agree_with_the_teacher():
    teacher, student = _net(1).eval(), _net(2)
    before = _agreement(copy.deepcopy(student), teacher)
    result = distill(student, teacher, _task(val=None), epochs=20, lr=0.02, alpha=1.0)
    assert _agreement(result.model, teacher) < 0.2 * before
    assert set(result.curve[0]["terms"]) == {"soft_labels"}


def test_the_loss_is_alpha_distillation_and_the_rest_the_tasks():
    teacher, student = _net(1).eval(), nn.Linear(4, 2)
    batch = _task(train=(X[:16], Y[:16]), val=None)
    own = nn.functional.cross_entropy(student(X[:16]), Y[:16]).item()
    soft = soft_labels(student(X[:16]), teacher(X[:16]), temperature=3.0).item()
    losses = ({"soft_labels": {"temperature": 3.0}},)
    result = distill(student, teacher, batch, epochs=1, alpha=0.7, losses=losses)
    assert result.curve[0]["terms"] == pytest.approx({"soft_labels": 0.7 * soft, "cross_entropy": 0.3 * own})


def test_alpha_one_needs_no_labels():
    task = _task(train=(X[:32],), val=None)
    assert set(distill(_net(2), _net(1), task, epochs=1, alpha=1.0).curve[0]["terms"]) == {"soft_labels"}
    with pytest.raises(TaskError, match=r"task\.train yields no target"):
        distill(_net(2), _net(1), task, epochs=1, alpha=0.5)


class _Watch(nn.Module):
    """A teacher that notes how it was called."""

    def __init__(self):
        super().__init__()
        self.net = _net(1)
        self.seen = []

    def __deepcopy__(self, memo):
        twin = _Watch()
        twin.net, twin.seen = copy.deepcopy(self.net, memo), self.seen
        return twin

    def forward(self, x):
        self.seen.append((self.training, torch.is_grad_enabled(), x.clone()))
        return self.net(x)


def test_the_teacher_sees_the_students_batches_in_eval_mode_without_gradient_and_is_not_changed():
    teacher = _Watch().train()
    state = {name: value.clone() for name, value in teacher.state_dict().items()}
    inputs = []

    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = _net(2)

        def forward(self, x):
            if self.training:
                inputs.append(x.clone())
            return self.net(x)

    task = _task(augment=lambda x, generator: x + torch.randn(x.shape, generator=generator))
    distill(Student(), teacher, task, epochs=2)
    assert len(teacher.seen) == 12
    assert not any(training or grad for training, grad, _ in teacher.seen)
    assert all(torch.equal(x, ours) for (_, _, x), ours in zip(teacher.seen, inputs, strict=True))
    assert teacher.training and all(module.training for module in teacher.modules())
    assert all(p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(value, state[name]) for name, value in teacher.state_dict().items())


class _Stop(Exception):
    pass


def test_a_resumed_distillation_ends_with_the_same_bits_and_another_alpha_does_not_resume(tmp_path):
    def stop(kind, fields):
        if kind == "epoch":
            raise _Stop

    teacher, settings = _net(1).eval(), {"epochs": 3, "lr": 0.01}
    whole = distill(_net(2), teacher, _task(), **settings)
    with pytest.raises(_Stop):
        distill(_net(2), teacher, _task(), **settings, context=Context(folder=tmp_path, emit=stop))
    events = []
    context = Context(folder=tmp_path, emit=lambda *event: events.append(event))
    resumed = distill(_net(2), teacher, _task(), **settings, context=context)
    assert [fields["epoch"] for kind, fields in events if kind == "epoch"] == [2, 3]
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    other = distill(_net(2), teacher, _task(), **settings, alpha=0.5, context=context)
    assert len([fields for kind, fields in events if kind == "epoch"]) == 2 + 3
    assert not torch.equal(other.model[0].weight, resumed.model[0].weight)


class _Dict(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = _net(3)

    def forward(self, left, right):
        return {"hidden": left, "logits": self.net(torch.cat([left, right], 1))}


@pytest.mark.parametrize("inputs", [
    {"left": X[:, :2], "right": X[:, 2:]}, (X[:, :2], X[:, 2:]),
])  # fmt: skip
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_dict_outputs_tuple_and_keyword_inputs(inputs, precision):
    task = _task(model=_Dict, train=(inputs, Y), val=(inputs, Y))
    result = distill(task.build(), task.build().eval(), task, epochs=1, precision=precision)
    assert call(result.model, inputs)["logits"].shape == (128, 2)
    assert set(result.curve[0]["terms"]) == {"soft_labels", "cross_entropy"}


def test_images_in_channels_last_bfloat16_keep_the_teacher_contiguous():
    images = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    net = lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2))  # noqa: E731
    teacher = net()
    task = _task(model=net, train=(images, Y[:32]), val=(images, Y[:32]))
    result = distill(net(), teacher, task, epochs=1, precision="bfloat16", layout="channels_last")
    assert teacher[0].weight.is_contiguous() and result.model[0].weight.is_contiguous()


def test_a_recipe_finds_it_with_losses_as_yaml_writes_them():
    recipe = parse_recipe({"steps": [{"distill": {"epochs": 8, "losses": [{"soft_labels": {"temperature": 2}}]}}]})
    step = recipe.steps[0]
    assert isinstance(step, Distill) and step.losses == ({"soft_labels": {"temperature": 2}},)
    assert step.uses_teacher and step.uses_data == ("train", "val")
    again = parse_recipe({"steps": [{"distill": step.parameters()}]}).steps[0]
    assert again == step
    assert Distill(losses=("soft_labels",)).parameters()["losses"] == ["soft_labels"]
    assert find("losses", "soft_labels") is soft_labels


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"losses": ("soft_label",)}, r"no method 'soft_label' in losses\. Did you mean 'soft_labels'\?"),
        (
            {"losses": ({"soft_labels": {"temprature": 4}},)},
            r"distill: losses: soft_labels has no argument 'temprature'\. Did you mean 'temperature'\?",
        ),
        (
            {"losses": ({"soft_labels": {"temperature": -1}},)},
            r"temperature=-1\) does not work: .*must be above 0",
        ),
        (
            {"losses": ({"soft_labels": {"temperature": "hot"}},)},
            r"soft_labels\(temperature='hot'\) does not work",
        ),
        ({"losses": ()}, r"losses is empty"),
        ({"losses": ("soft_labels", {"soft_labels": {}})}, r"names 'soft_labels' twice"),
        ({"losses": ({"soft_labels": {}, "dkd": {}},)}, r"must have one name with its arguments"),
        ({"losses": (3,)}, r"distill: losses=\(3,\)"),
        ({"alpha": 1.5}, r"distill: alpha=1\.5 must be at least 0 and at most 1"),
        ({"epochs": 0}, r"distill: epochs=0"),
        ({"epochs": 1, "warmup": 1.0}, r"distill: warmup=1 must be less than epochs=1"),
    ],
)
def test_a_wrong_field_is_seen_when_the_step_is_built(fields, message):
    with pytest.raises(InputError, match=message):
        Distill(**fields)


def test_the_function_validates_as_the_step_does():
    with pytest.raises(RecipeError, match="alpha=2 must be"):
        distill(_net(), _net(), _task(), alpha=2)
    with pytest.raises(TypeError, match="epoch"):
        distill(_net(), _net(), _task(), epoch=2)


def test_without_a_teacher_it_says_so():
    with pytest.raises(RecipeError, match="distill: there is no teacher"):
        Distill(epochs=1).apply(_net(), _task(), Context())


def test_classes_that_differ_are_said():
    with pytest.raises(TaskError, match=r"student's logits are \(16, 2\) and the teacher's \(16, 3\)"):
        distill(_net(), nn.Linear(4, 3), _task(), epochs=1)


def test_the_step_distils_from_the_contexts_teacher(trained_task, trained_net):
    student = copy.deepcopy(trained_net)
    with torch.no_grad():
        for parameter in student.parameters():  # damaged, as after a cut
            parameter.add_(0.5 * parameter.std() * torch.randn(parameter.shape) if parameter.ndim > 1 else 0)
    step = Distill(epochs=2, lr=3e-3, precision="float32", layout="contiguous")
    result = step.apply(student, trained_task, Context(teacher=trained_net))
    assert result.details["curve"][-1]["value"] > 0.85
    assert set(result.details["curve"][0]["terms"]) == {"soft_labels", "cross_entropy"}
