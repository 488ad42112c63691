// Speeds on a machine whose own speed changes meanwhile: what is compared is measured in turns.
#pragma once

#include <functional>

namespace loci {

// The median over `rounds` of a() / b(), where each call measures anew, such as seconds per step over a few steps.
// Which of both goes first alternates, so that a steady drift of the machine cancels.
double ratio_in_turns(const std::function<double()>& a, const std::function<double()>& b, int rounds);

}  // namespace loci
