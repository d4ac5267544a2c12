"""A divergence is autograd's to the bit, and keeps no more than what it was given."""

import torch

from pipeline.method.divergences import forward_kl


def rows():
    torch.manual_seed(0)
    student, reference = torch.randn(2, 7, 50).log_softmax(-1)
    reference[:, 3] = torch.finfo(torch.float32).min  # an id that the tokenizer does not have
    return student.requires_grad_(), reference


def plain(student_TV, reference_TV):
    return (reference_TV.exp() * (reference_TV - student_TV)).sum(-1)


def test_value_and_gradient_are_those_of_autograd_to_the_bit():
    student, reference = rows()
    weight_T = torch.rand(7)
    found = [
        (kl_T, *torch.autograd.grad((kl_T * weight_T).sum(), student))
        for kl_T in (forward_kl(student, reference), plain(student, reference))
    ]
    for ours, theirs in zip(*found, strict=True):
        assert ours.equal(theirs)


def test_it_keeps_the_reference_alone():
    student, reference = rows()

    def kept(divergence):
        found = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: found.append(x) or x, lambda x: x):
            divergence(student, reference)
        return found

    (alone,) = kept(forward_kl)
    assert alone.data_ptr() == reference.data_ptr()
    assert any(one.data_ptr() != reference.data_ptr() for one in kept(plain))
