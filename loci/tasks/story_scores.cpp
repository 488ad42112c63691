// Legend: M items, L words of an item.
#include "loci/tasks/story_scores.h"

#include <algorithm>
#include <limits>

namespace loci {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

double share(double part, double all) {
  return all == 0 ? kNone : part / all;
}

std::span<const int64_t> until_padding(std::span<const int64_t> words) {
  return words.first(static_cast<size_t>(std::find(words.begin(), words.end(), story::pad) - words.begin()));
}

}  // namespace

double story_f1(std::span<const int64_t> answer, std::span<const int64_t> truth) {
  answer = until_padding(answer);
  truth = until_padding(truth);
  std::vector<int64_t> left(truth.begin(), truth.end());
  double common = 0;
  for (const int64_t word : answer) {
    const auto found = std::find(left.begin(), left.end(), word);
    if (found == left.end()) continue;
    left.erase(found);
    ++common;
  }
  const auto words = static_cast<double>(answer.size() + truth.size());
  return words == 0 ? 1 : 2 * common / words;
}

std::vector<Measure> StoryScores::measures() {
  return {{"cross_exact", 1, false, "%", "share of inferences, exact, that an earlier sentence decides"},
          {"same_exact", 1, false, "%", "share of inferences, exact, that their own sentence decides"},
          {"exact", 1, false, "%", "share of all inferences that are exact"},
          {"cross_f1", 3, false, "", "F1 of the words of inferences that an earlier sentence decides"},
          {"same_f1", 3, false, "", "F1 of the words of inferences that their own sentence decides"},
          {"coherence", 1, false, "%", "share of inferences that agree with the simulator's state"},
          {"retrieval", 1, false, "%", "how often the best item has the deciding word, of an earlier sentence"}};
}

void StoryScores::Part::add(double one_exact, double one_f1) {
  ++count;
  exact += one_exact;
  f1 += one_f1;
}

void StoryScores::add(const Story& story, int64_t sentence, StoryRelation relation, const StoryAnswer& answer) {
  const StoryInference& truth = story.inference(sentence, relation);
  const double exact = answer.ended && answer.words == truth.words ? 1 : 0;
  const double f1 = story_f1(answer.words, truth.words);
  all_.add(exact, f1);
  if (answer.ended && story_agrees(story, sentence, relation, answer.words)) ++agree_;
  if (!truth.cross_sentence()) return same_.add(exact, f1);
  cross_.add(exact, f1);
  by_distance_.at(static_cast<size_t>(sentence - truth.fact.sentence)).add(exact, f1);
  const auto items = static_cast<int64_t>(answer.items.size()) / kStoryInferenceWords;
  if (answer.item < 0 || items == 0) return;
  const auto has_word = [&](int64_t item) {
    const auto words = answer.items.subspan(static_cast<size_t>(item * kStoryInferenceWords), kStoryInferenceWords);
    return std::find(words.begin(), words.end(), truth.fact.word) != words.end();
  };
  double with_word = 0;
  for (int64_t item = 0; item < items; ++item) with_word += has_word(item) ? 1 : 0;
  const int64_t fact = truth.fact.sentence * kStoryRelations + static_cast<int64_t>(truth.fact.relation);
  ++asked_;
  has_word_ += has_word(answer.item) ? 1 : 0;
  is_fact_ += items == 1 || answer.item == fact ? 1 : 0;
  chance_word_ += with_word / static_cast<double>(items);
  chance_fact_ += 1 / static_cast<double>(items);
}

Evaluation StoryScores::evaluation() const {
  const auto mean = [](const Part& part, double sum) { return share(sum, static_cast<double>(part.count)); };
  Evaluation evaluation;
  evaluation.values = {mean(cross_, cross_.exact), mean(same_, same_.exact), mean(all_, all_.exact),
                       mean(cross_, cross_.f1),    mean(same_, same_.f1),    mean(all_, agree_),
                       share(has_word_, asked_)};
  nlohmann::json distances = nlohmann::json::array();
  for (size_t distance = 1; distance < by_distance_.size(); ++distance) {
    const Part& part = by_distance_.at(distance);
    distances.push_back({{"distance", distance},
                         {"inferences", part.count},
                         {"exact", mean(part, part.exact)},
                         {"f1", mean(part, part.f1)}});
  }
  evaluation.details = {{"inferences", all_.count},
                        {"cross_inferences", cross_.count},
                        {"by_distance", distances},
                        {"retrieval_chance", share(chance_word_, asked_)},
                        {"retrieval_of_fact", share(is_fact_, asked_)},
                        {"retrieval_of_fact_chance", share(chance_fact_, asked_)}};
  return evaluation;
}

}  // namespace loci
