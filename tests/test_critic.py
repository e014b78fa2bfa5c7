from __future__ import annotations

import torch

from sis_rearrange.critic import Critic
from sis_rearrange.stylegan2 import Discriminator
from sis_rearrange.tensors import one_hot


def test_starts_as_the_discriminator_and_learns_to_see_the_mask():
    torch.manual_seed(0)
    discriminator = Discriminator(0, 32, channel_base=256, channel_max=16)
    critic = Critic(discriminator, 4)
    images, masks = torch.randn(4, 3, 32, 32), [one_hot(torch.randint(0, 4, [4, 8, 8]), 4) for _ in range(2)]
    torch.testing.assert_close(critic(images, masks[0]), discriminator(images))
    critic(images, masks[0]).sum().backward()
    assert critic.from_mask.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in discriminator.parameters())  # the pack's own network stays as it is
    with torch.no_grad():
        critic.from_mask.weight -= 0.1 * critic.from_mask.weight.grad
    assert not torch.allclose(critic(images, masks[0]), critic(images, masks[1]))
