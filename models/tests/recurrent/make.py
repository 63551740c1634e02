"""Cases for tests/recurrent.rs: state dictionaries as PyTorch saves them, and what PyTorch computes with them.

Each case is the file of a state dictionary and `{name}.golden.safetensors` beside it: the input, and in float64 the
top layer's hidden states and the output of PyTorch's own modules.

    pip install torch safetensors numpy && python make.py
"""

import pathlib

import torch
from safetensors.torch import save_file
from torch import nn

HERE = pathlib.Path(__file__).parent
T = 11


class Net(nn.Module):
    """An embedding, a recurrent network and a head, each where the case has one."""

    def __init__(self, embedding=None, head=None, **recurrent):
        super().__init__()
        for name, module in {**(embedding or {}), **recurrent, **(head or {})}.items():
            self.add_module(name, module)
        self.parts = [[*(part or {"": nn.Identity()})][0] for part in (embedding, recurrent, head)]

    def forward(self, x):
        embed, recurrent, head = (getattr(self, name) if name else nn.Identity() for name in self.parts)
        hidden = recurrent(embed(x))[0]
        return hidden, head(hidden)


class Wrapper(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        return self.encoder(x)


def case(file, module, x, state=None):
    """Float32 weights on disk, the same weights in float64 for the numbers."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    state = state(module) if state else module.state_dict()
    if file.endswith(".safetensors"):
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, HERE / file)
    else:
        torch.save(state, HERE / file)
    module.double()
    with torch.no_grad():
        hidden, output = module(x.double() if x.is_floating_point() else x)
    if isinstance(module, (nn.GRU, nn.LSTM)):
        output = hidden
    golden = {"input": x, "hidden": hidden.clone(), "output": output.clone()}
    save_file(golden, HERE / f"{file.split('.')[0]}.golden.safetensors")


def samples(channels):
    return torch.randn(T, channels)


def tokens(vocabulary):
    return torch.randint(vocabulary, (T,))


torch.manual_seed(11)
case("gru.pt", nn.GRU(3, 6, num_layers=2), samples(3))
case("gru-one-layer.safetensors", nn.GRU(2, 4), samples(2))
case("gru-no-bias-wide-input.safetensors",
     Net(rnn=nn.GRU(6, 4, num_layers=2, bias=False), head={"fc": nn.Linear(4, 3)}), samples(6))
case("gru-parameters.pt", Net(gru=nn.GRU(3, 4), head={"out": nn.Linear(4, 3, bias=False)}), samples(3),
     state=lambda module: {"state_dict": dict(module.named_parameters()), "epoch": 3})
case("lstm.pth", Wrapper(Net(embedding={"embedding": nn.Embedding(11, 3)}, lstm=nn.LSTM(3, 6, num_layers=2),
                             head={"decoder": nn.Linear(6, 11)})), tokens(11))
case("lstm-wide-embedding.safetensors",
     Net(embedding={"embed": nn.Embedding(5, 7)}, lstm=nn.LSTM(7, 4, num_layers=2, bias=False),
         head={"classifier": nn.Linear(4, 2)}), tokens(5))
case("lstm-one-layer.pt", nn.LSTM(2, 6, bias=False), samples(2))
